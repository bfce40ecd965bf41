import pytest

from mmgen.runs.redaction import REDACTED, hides, redacted

KEYS = [
    *("api_key", "apiKey", "API_KEY", "apikey", "key", "secret_access_key", "access_key_id"),
    *("token", "hf_token", "accessToken", "api_keys", "access_tokens"),
    *("password", "db_password", "PASSWORD_FILE", "passphrase", "secret", "client_secret", "credentials"),
    "authorization",
]


@pytest.mark.parametrize("key", KEYS)
def test_values_of_secrets_are_hidden_at_any_depth(key: str) -> None:
    config = {"dataset": {"parts": [{key: "hunter2", "path": "pictures"}]}}
    assert redacted(config) == {"dataset": {"parts": [{key: REDACTED, "path": "pictures"}]}}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokenizer", {"name": "vq", "codebook_size": 1024}),
        ("tokenizer_from", "runs/fox"),
        ("text_tokenizer", {"vocab_size": 512}),
        ("image_tokens", 64),
        ("num_tokens", "64"),
        ("key_dim", 32),
        ("num_keys", 4),
        ("pad_token", 0),
        ("monkey", "capuchin"),
        ("keypoints", "17"),
        ("secretary", "bird"),
        ("token", None),
        ("token", ""),
        ("api_keys", []),
        ("image_tokens", ["<s>"]),
        ("sort_keys", ["a"]),
    ],
)
def test_what_only_sounds_like_a_secret_is_kept(key: str, value: object) -> None:
    assert redacted({key: value}) == {key: value}


def test_a_number_can_be_a_password_but_is_no_token() -> None:
    assert redacted({"password": 1234, "end_token": 1234}) == {"password": REDACTED, "end_token": 1234}


def test_credentials_inside_an_address_are_hidden() -> None:
    assert redacted({"storage": "postgresql://me:hunter2@host/db"}) == {"storage": f"postgresql://{REDACTED}@host/db"}
    assert redacted({"storage": "redis://:hunter2@host"}) == {"storage": f"redis://{REDACTED}@host"}
    assert redacted({"u": "http://me:hunt@er2@host:80/a@b"}) == {"u": f"http://{REDACTED}@host:80/a@b"}
    assert redacted({"path": "s3://bucket/a:b@c"}) == {"path": "s3://bucket/a:b@c"}


def test_what_was_hidden_is_seen() -> None:
    assert hides(redacted({"a": [{"url": "https://me:hunter2@host"}]}))
    assert not hides({"a": [1, None, "https://host"], "token": ""})


def test_the_config_itself_is_left_alone() -> None:
    config = {"token": "hunter2"}
    redacted(config)
    assert config == {"token": "hunter2"}
