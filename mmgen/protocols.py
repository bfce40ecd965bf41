"""All that a plugin author must read: what travels between the parts, and the contract of each kind of component.

Letters: B batch, T text positions, N = h·w image positions, H W pixels, D features, V ids of a vocabulary.
A component is a class named by an entry point in the group `mmgen.<kind>`; its keyword arguments are its options. What
one part sets for another (`BUILD_ARGUMENTS`) is handed over when it is built and is never an option. These are the
contracts of plugin API `API_VERSION`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NotRequired, Protocol, TypedDict, runtime_checkable

from torch import Tensor

from mmgen.api import API_VERSION as API_VERSION
from mmgen.stream import KVCache, TokenStream


class Sample(TypedDict):
    """A captioned picture, as a dataset gives it."""

    image: Tensor  # (3,H,W) float in [0,1]
    caption: str  # the caption it is judged by
    id: str  # unique in the dataset, the same in every process and on every machine
    captions: NotRequired[list[str]]  # every caption of the picture; training draws one, by (seed, epoch, id)
    attributes: NotRequired[dict[str, str]]  # what the picture shows, for exact judges and classifiers


class Batch(TypedDict):
    """Samples stacked, as a trainable component gets them."""

    caption: list[str]
    id: list[str]
    key: list[int]  # a 63-bit number per sample, from (seed, epoch, id): the seed of whatever is random about it
    image: NotRequired[Tensor]  # (B,3,H,W) float in [0,1]; absent where cached image tokens stand for it
    text_tokens: NotRequired[Tensor]  # (B,T) long, each caption's ordinary segmentation, where it is known already
    image_tokens: NotRequired[Tensor]  # (B,N) long; present when a generator trains, unless on text alone


Logs = dict[str, Tensor | float]


class Dataset(Protocol):
    """Captioned pictures, map-style. It may also have

    - `splits`: Mapping[str, Sequence[int]], positions by the split's name. `train` and `val` are the two that training
      uses; every other one is held out. Without it, mmgen holds out 5 % as `val`, by the id's hash.
    - `classes`: Mapping[str, Sequence[str]], the possible values of an attribute; `templates`: Sequence[str], captions
      with places for attributes, such as "{name} with {tone} skin tone". Classifying by name reads both.
    - `__getitems__(positions)`: the samples at several positions, as torch's DataLoader has it, where many at once are
      read or drawn faster than each by itself.
    - `original(index)`: the picture at its own size (3,H,W), float in [0,1], from which the paper's augmentations cut
      (`task.augment`). Without it they cut from the sample's `image`, enlarged.
    - `before(index)`: the picture (3,H,W) that a redrawing of this sample starts from, float in [0,1], where its own
      would tell what is to be drawn. Without it, the sample's own.
    - `part_weights`: Mapping[str, float], how often training draws from each of its parts, by name, relative to each
      other; `parts`: Mapping[str, Sequence[int]], their positions, every position in one. Without it each sample is
      drawn equally often.
    - `blocks`: Sequence[int], for each position the number of the piece it is read from, such as a shard: what
      `task.shuffle=blocks` goes through.
    - `attribution`: str, the licence's line for the report.
    """

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample: ...


class Record(TypedDict):
    """What a token dataset knows of a sample besides its tokens."""

    id: str
    captions: list[str]  # the first is the one it is judged by
    attributes: dict[str, str]


@runtime_checkable
class TokenDataset(Protocol):
    """Captioned pictures as image tokens of one image tokenizer: what a generator trains on, and nothing else does.
    Positions count through `train`, then `val`; `val` is never augmented."""

    image_tokenizer: str  # the fingerprint of the image tokenizer that made them
    fingerprint: str  # changes with any token, id or caption
    grid: tuple[int, int]
    codebook_size: int

    def __len__(self) -> int: ...

    def positions(self, split: str) -> Sequence[int]:
        """Of `train` or `val`, in fixed order."""
        ...

    def records(self, positions: Sequence[int]) -> list[Record]: ...

    def image_tokens(self, positions: Sequence[int], epochs: Sequence[int]) -> Tensor:
        """(B,N) long, as seen in these epochs: a sample may be augmented in several ways, which take turns."""
        ...

    def text_tokens(self, positions: Sequence[int]) -> Tensor:
        """(B,T) long: the ordinary segmentation of each sample's first caption."""
        ...

    def text_tokenizer(self, bpe_dropout: float = 0.0) -> TextTokenizer:
        """The one that made the text tokens, trained on their captions."""
        ...


class TextTokenizer(Protocol):
    """Caption to ids. Owned by the generator and the encoder, each its own. Ids from `vocab_size` to `num_ids` - 1 are
    the pads, one for each position (DALL·E, section 2.2)."""

    vocab_size: int
    context_length: int
    num_ids: int  # vocab_size + context_length

    def encode(self, captions: Sequence[str], keys: Sequence[int] | None = None) -> Tensor:
        """(B,T) long. With `keys`, BPE dropout, seeded by each caption's key; without, the one true segmentation."""
        ...

    def end(self, text_tokens: Tensor) -> Tensor:
        """(B,T) to (B,): the position that ends each caption, its first pad, or the last one of a caption without."""
        ...


@runtime_checkable
class Trainable(Protocol):
    """A component that learns owns its loss. In eval mode (`self.training` false) the same call gives the validation
    loss: no dropout, no relaxation, nothing random.

    It may have `checkpoint_options`: Mapping[str, Any], options that its checkpoint holds in place of those it was
    built with. What needed a file to start from, such as a language model's weights, needs none to be built again.

    A module in an attribute `discriminator` learns against the rest: its loss is added to the component's, and neither
    side's gradient may reach the other's weights. It is trained with `task.discriminator_optimizer`, kept in
    checkpoints, and left out (the attribute is None) of the averaged weights, which are validated and published.
    """

    def training_loss(self, batch: Batch, step: int) -> tuple[Tensor, Logs]: ...


class Tokenizer(Trainable, Protocol):
    """The image tokenizer. Built with `image_size`. It may also have

    - `collapse_advice`: str, what to change when few codes do all the work; the alarm says it.
    - in the logs of its `training_loss`, `indices` (B,h,w) long, the batch's codes: the task counts them over an epoch.
    """

    image_size: int
    codebook_size: int
    grid: tuple[int, int]  # (h,w)

    def encode(self, images: Tensor) -> Tensor:
        """(B,3,H,W) float in [0,1] to indices (B,h,w) long."""
        ...

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (B,h,w) to pictures (B,3,H,W) in [0,1]."""
        ...

    def quantize(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B,3,H,W) to features (B,D,h,w), what the decoder is fed, and the indices (B,h,w) that stand for them."""
        ...

    def decode_features(self, features: Tensor) -> Tensor:
        """Features (B,D,h,w) to pictures (B,3,H,W) in [0,1]; those of `quantize` as `decode` does their indices."""
        ...


class Generator(Trainable, Protocol):
    """The model of the token stream. Built with `text_tokenizer`, `grid`, `codebook_size`. It may also have, as may a
    `Captioner`,

    - `attention_maps(text_tokens, image_tokens)`: (B,T), (B,N) to (B,L,S,S), S = T+N-1, for each of L layers how much
      each position of the stream but the last reads of each, the mean over the heads. Rows have the sum 1.
      `tracking.attention` draws pictures of it, and is refused without it.
    """

    stream: TokenStream
    text_tokenizer: TextTokenizer

    def __call__(self, text_tokens: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B,T), (B,N) to text_logits (B,T-1,V) of the text tokens 1.. and image_logits (B,N,V) of all image tokens."""
        ...

    def prefill(self, text_tokens: Tensor, image_tokens: Tensor | None = None) -> tuple[Tensor, KVCache]:
        """Reads the text, and image tokens already drawn (B,K): logits (B,V) of the next image token, and the cache."""
        ...

    def step(self, image_tokens: Tensor, kv_cache: KVCache) -> Tensor:
        """K further image tokens (B,K): logits (B,K,V), each of the token after it. The cache grows by K."""
        ...


class Captioner(Trainable, Protocol):
    """A generator of the other order, `stream.order == "image_first"`: it reads a picture and writes its caption."""

    stream: TokenStream
    text_tokenizer: TextTokenizer

    def __call__(self, text_tokens: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B,T), (B,N) to text_logits (B,T,V) of all text tokens and image_logits (B,N-1,V) of the image tokens 1.."""
        ...

    def prefill_image(self, image_tokens: Tensor, text_tokens: Tensor | None = None) -> tuple[Tensor, KVCache]:
        """Reads a picture (B,N), and the start of its caption (B,K): logits (B,V) of the next text token, and the
        cache. A caption ends at the first pad, an id of `text_tokenizer.vocab_size` or more."""
        ...

    def step_text(self, text_tokens: Tensor, kv_cache: KVCache) -> Tensor:
        """K further text tokens (B,K): logits (B,K,V), each of the token after it. The cache grows by K."""
        ...


class Encoder(Trainable, Protocol):
    """The contrastive encoder. Built with `text_tokenizer`, `image_size`. It may also have

    - `image_size`: int, what pictures are resized to.
    - `probe_features(images)`: (B,3,H,W) to (B,F), what a linear probe reads in place of image_features; in `Clip`,
      those before the projection.
    - `pretrained`: True where building it gives it its weights (with `text_tokenizer=None`); an attribute of the class.
      `mmgen evaluate encoder=NAME` judges it without a run, and it may read pictures only: no `text_tokenizer`,
      `logit_scale` and `encode_text`.
    """

    text_tokenizer: TextTokenizer
    logit_scale: Tensor  # (), stored as a logarithm

    def encode_image(self, images: Tensor) -> Tensor:
        """(B,3,H,W) float in [0,1] to image_features (B,D), of length one."""
        ...

    def encode_text(self, text_tokens: Tensor) -> Tensor:
        """(B,T) to text_features (B,D), of length one."""
        ...


class Sampler(Protocol):
    """Draws image tokens from a generator. It may have a method `summary() -> str`: a line about what its draws cost so
    far, which `mmgen sample` prints."""

    def draw(
        self,
        generator: Generator,
        text_tokens: Tensor,
        *,
        num_images: int,
        seed: int,
        kept_tokens: Tensor | None = None,
        kept: Tensor | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Captions (C,T) to image tokens (C,num_images,N).

        Image number i of a caption is a function of (generator, caption, seed, i) alone, however many are drawn beside
        it. Where `kept` (N,) bool is true, the token is `kept_tokens` (C,N)'s. `progress` is called with the number of
        pictures finished since its last call.
        """
        ...


@dataclass(frozen=True)
class Needs:
    """What an evaluator has to be given. What a run lacks makes it step aside, and the report says so."""

    # The pictures it judges. `val` stands in when the dataset has no split of that name, if `or_val`. Where nothing was
    # trained on the dataset and it declares no `val`, its `test` or only held-out split does; where it declares no
    # splits, every picture, as the split "all".
    split: str
    or_val: bool = True
    max_pictures: int | None = None
    reconstructions: bool = False
    teacher_forced: bool = False  # what the generator would draw token by token, if all before each were the true ones
    drawings: int = 0  # how many are drawn for each picture, of its caption; the encoder ranks them
    redrawings: int = 0  # how many of each picture are drawn from part of it; the encoder ranks them
    redrawn_from: tuple[float, float] = (0.5, 0.0)  # the first share of height and width that is not kept
    features: bool = False  # the encoder's, of pictures and captions
    probe_features: bool = False  # the encoder's, of pictures, as a linear probe reads them; it need not read text
    all_pictures: bool = False  # every picture of the dataset, to search in
    attributes: bool = False  # samples with attributes, and the classes that each attribute may have
    templates: bool = False  # a dataset with templates
    prompts: str | None = None  # a pack that `Setting.read_prompts` will be asked for; that there is none is told first


@dataclass
class Evidence:
    """What the command made for an evaluator, once for all that share it. Absent parts are None."""

    samples: list[Sample]
    images: Tensor  # (B,3,H,W)
    indices: Tensor | None = None  # (B,h,w)
    reconstructions: Tensor | None = None  # (B,3,H,W)
    teacher_forced: Tensor | None = None  # (B,3,H,W), each token the likeliest after the true ones before it
    drawings: Tensor | None = None  # (B,n,3,H,W), best first by the encoder's score
    drawing_scores: Tensor | None = None  # (B,n), cosine, falling
    redrawings: Tensor | None = None  # (B,n,3,H,W), best first
    redrawing_scores: Tensor | None = None  # (B,n), falling
    kept_codes: Tensor | None = None  # (B,n), of the codes that a redrawing keeps, the share that is as it was given
    image_features: Tensor | None = None  # (B,D)
    text_features: Tensor | None = None  # (B,D)
    probe_features: Tensor | None = None  # (B,F)


Names = Mapping[str, Sequence[str]]  # what each class goes by in captions; one or several


@dataclass
class Setting:
    """What stays the same over an evaluation, handed to an evaluator before the first update."""

    split: str  # the one judged; "all" where every picture is
    splits: Sequence[str] = ()  # those that the dataset declares
    evidence: Callable[[str], Iterator[Evidence]] | None = None  # of another split, to fit on: only what `needs` names
    seed: int = 0
    codebook_size: int = 0
    all_images: Tensor | None = None  # (M,3,H,W), every picture of the dataset
    all_ids: list[str] = field(default_factory=list)
    all_attributes: list[dict[str, str]] = field(default_factory=list)
    train_positions: list[int] = field(default_factory=list)  # which of `all_images` were trained on
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    templates: Sequence[str] = ()
    encode_captions: Callable[[Sequence[str]], Tensor] | None = None  # captions to text_features (B,D)
    # As encode_captions, for captions that stay the same over an evaluation: very many have a bar, and are kept for the
    # next one. None: encode_captions does.
    encode_classes: Callable[[Sequence[str]], Tensor] | None = None
    read_prompts: Callable[[str], tuple[Names, Sequence[str]]] | None = None  # a pack's classes, and its templates
    encode_images: Callable[[Tensor], Tensor] | None = None  # pictures (B,3,H,W) to indices (B,h,w)
    image_features: Callable[[Tensor], Tensor] | None = None  # pictures (B,3,H,W) to image_features (B,D)
    logit_scale: float = 1.0
    collapse_advice: str = ""  # the image tokenizer's, see `Tokenizer`


@dataclass
class Finding:
    """One number of an evaluator: its value, over how many, and how it is to be read."""

    name: str  # such as "reconstruction/psnr"
    value: float
    n: int
    unit: str = ""  # "%", "dB", ""; a share is given in [0,1] with unit "%"
    chance: float | None = None  # what guessing reaches
    note: str = ""


@dataclass
class Findings:
    """What an evaluator returns."""

    numbers: list[Finding]
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # title to rows
    pictures: dict[str, Tensor] = field(default_factory=dict)  # title to (3,H,W) in [0,1]
    depends_on: tuple[str, ...] = ()  # of "dataset", "tokenizer", "generator", "encoder", "sampler"
    stood_aside: str | None = None  # why there are no numbers: what was found could not be judged


class Evaluator(Protocol):
    """Measures, as a torchmetrics metric does: begin, update for every chunk of evidence, compute."""

    needs: Needs

    def begin(self, setting: Setting) -> None: ...
    def update(self, evidence: Evidence) -> None: ...
    def compute(self) -> Findings: ...
