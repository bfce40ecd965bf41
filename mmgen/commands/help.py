"""The help pages, made from the schema, the presets and package metadata: neither Hydra nor torch is imported.

Only `mmgen COMMAND KIND=NAME --help` imports a component: the one whose options it is asked for.
"""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmgen import registry
from mmgen.commands.actions import ACTIONS
from mmgen.commands.places import Place, options, places, yaml_groups
from mmgen.commands.schema import COMMANDS
from mmgen.options import REQUIRED, Option, describe, options_of, written


@dataclasses.dataclass(frozen=True)
class Page:
    """What a command's help says beyond its config."""

    summary: str
    usage: str
    examples: tuple[str, ...]
    notes: tuple[str, ...] = ()


PAGES = {
    "run": Page(
        "train the three parts, draw, rank, classify, judge, and write a report",
        "[KEY=VALUE]…",
        (
            "mmgen run",
            "mmgen run dataset=folder dataset.path=pictures/",
            "mmgen run generator.num_layers=6 run.name=six",
        ),
        (
            "Without dataset= and experiment= it means experiment=quickstart (plugin mmgen-emoji).",
            "Run again, it skips finished stages and goes on where it was interrupted.",
            "trainer.KEY=VALUE counts for every stage, stages.STAGE.trainer.KEY=VALUE for one.",
        ),
    ),
    "train": Page(
        "train one part: the image tokenizer, the generator or the encoder",
        "task=TASK dataset=NAME [KEY=VALUE]…",
        ("mmgen train task=generator dataset=emoji generator.num_layers=6",),
        ("trainer.* are the arguments of Lightning's Trainer.",),
    ),
    "sample": Page(
        "draw captions; the encoder ranks the drawings",
        "CAPTION… [KEY=VALUE]… [-- CAPTION…]",
        ('mmgen sample "a firefighter with dark skin tone" num_images=32 keep=8', 'mmgen sample seed=2 -- "E=mc2"'),
    ),
    "redraw": Page(
        "draw a part of a picture anew to fit a caption; the rest is kept",
        "PICTURE… CAPTION… row=ROW [column=COLUMN] [KEY=VALUE]… [-- PICTURE or CAPTION…]",
        (
            'mmgen redraw picture.png "a cat in a red hat" row=16',
            'mmgen redraw picture.png "a cat" row=2 column=4 unit=codes num_images=32',
            'mmgen redraw picture.png "a cat" mask=mask.png keep_pixels=true',
        ),
        (
            "Existing files are pictures, the other words captions; every picture is redrawn with every caption.",
            "Drawn is what lies below row and right of column, or what is white in the mask.",
        ),
    ),
    "caption": Page(
        "say what pictures show, with a generator trained picture first",
        "PICTURE… [KEY=VALUE]…",
        ("mmgen caption picture.png num_captions=16", "mmgen caption *.png run=runs/captioner temperature=0.7"),
        ("Such a generator: mmgen train task=generator generator.order=image_first tokenizer_from=RUN dataset=NAME",),
    ),
    "classify": Page(
        "name what pictures show: existing files are pictures, the others labels",
        "PICTURE… LABEL… [KEY=VALUE]… [-- PICTURE or LABEL…]",
        (
            'mmgen classify picture.png "a cat" "a dog" "a car"',
            "mmgen classify *.png labels=labels.txt html=page.html",
            "mmgen classify picture.png prompts=cifar10",
        ),
        ("Packs of labels and templates: pip install mmgen-prompts. Labels of your own stand in for a pack's.",),
    ),
    "evaluate": Page(
        "judge a finished run again, with these evaluators; nothing is trained",
        "[KEY=VALUE]…",
        (
            "mmgen evaluate run=runs/quickstart evaluator=[redraw]",
            "mmgen evaluate evaluator=[nearest_picture] evaluator.nearest_picture.drawings=32 sampler=greedy",
        ),
        ("Without evaluator= and dataset= those of the run. Its first evaluation stays as it is.",),
    ),
    "export": Page(
        "write the trained parts into a directory to share",
        "[RUN [DIRECTORY]] [KEY=VALUE]…",
        ("mmgen export runs/quickstart exports/emoji",),
    ),
    "import": Page(
        "turn weights that others trained into an export, and report what became of every tensor",
        "FORMAT FILE… to=DIRECTORY [KEY=VALUE]…",
        (
            "mmgen import openai_dvae encoder.pkl decoder.pkl to=imported/dalle",
            "mmgen import taming_vqgan last.ckpt model.yaml to=imported/vqgan",
            "mmgen import clip ViT-B-32.pt vocabulary=bpe_simple_vocab_16e6.txt.gz to=imported/clip",
        ),
        (
            "Formats: openai_dvae (the two pickles of DALL·E's image tokenizer), taming_vqgan (a VQGAN's checkpoint), "
            "clip (OpenAI's archives, open_clip's weights, folders of open_clip and of Hugging Face).",
            "No code of the files is run. What was imported is named as a run is: tokenizer_from=imported/dalle.",
        ),
    ),
    "data": Page(
        "turn a dataset into token shards, which a generator trains on; prove them whole",
        "tokenize dataset=NAME tokenizer_from=RUN to=DIRECTORY [KEY=VALUE]… | check DIRECTORY",
        (
            "mmgen data tokenize dataset=emoji tokenizer_from=runs/quickstart to=tokens/emoji",
            "mmgen data tokenize dataset=emoji tokenizer_from=runs/quickstart to=tokens/varied variants=8 "
            "task.augment=dalle_generator",
            "mmgen data check tokens/emoji",
            "mmgen train task=generator dataset=tokens dataset.path=tokens/emoji tokenizer_from=runs/quickstart",
        ),
        (
            "Run again, it keeps what is whole and goes on. Started by torchrun, each process writes its own shards.",
            "Of task.* it reads augment, text_tokenizer and alternative_captions.",
        ),
    ),
    "plan": Page(
        "what training would take: parameters, operations, memory of a GPU, days, dollars",
        "generator=NAME nodes=N gpus=G [KEY=VALUE]…",
        (
            "mmgen plan generator=dalle_12b trainer=fsdp nodes=8 gpus=8",
            "mmgen plan generator=dalle_12b nodes=[2,8,32] gpu=a100 measure=false out=plan.json",
            "mmgen plan generator=dalle_base trainer=ddp task.batch_size=256 tokens=2e10",
        ),
        ("Nothing is trained, and no GPU is needed. Prices are yours to set: price=2.5",),
    ),
    "sweep": Page(
        "search for better values: trials that are runs of their own, pruned, resumed, ranked, reported",
        "sweep=NAME [experiment=NAME] [KEY=SEARCH]… [KEY=VALUE]…",
        (
            "mmgen sweep sweep=learning_rate task=tokenizer dataset=emoji n_trials=30",
            "mmgen sweep task=generator dataset=emoji 'generator.num_layers=choice(2,4,6)' "
            "'task.optimizer.lr=tag(log,interval(1e-4,1e-2))' total_time=2h sweep.pruner=median",
            "mmgen sweep experiment=quickstart 'stages.encoder.task.optimizer.lr=interval(1e-3,4e-3)' "
            "sweep.goal=evaluation:retrieval/caption_to_picture_r5 sweep.direction=maximize",
        ),
        (
            "A search: interval(A,B), int(interval(A,B)), tag(log,interval(A,B)), range(A,B,STEP), choice(A,B), A,B.",
            "Other keys are the trials', which are `mmgen train` where a task is chosen, else `mmgen run`.",
            "The same command goes on with a sweep that was stopped or killed. On one storage, several share it.",
            "--wandb writes a W&B sweep's file instead.",
        ),
    ),
    "plugins": Page(
        "list installed components, show one's options, check whether it keeps its contract, make a new one",
        "list | info NAME | check [NAME [KEY=VALUE]…] | new KIND NAME [DIRECTORY]",
        (
            "mmgen plugins list",
            "mmgen plugins info transformer",
            "mmgen plugins check vq",
            "mmgen plugins new dataset stripes",
        ),
        (
            "NAME is a component's, KIND/NAME, or a distribution's; check without one imports every component.",
            "check runs every check of mmgen.testing, with these options; it exits with 4 where one fails, 8 where the "
            "component cannot be imported or built.",
        ),
    ),
    "config": Page(
        "show a command's resolved config, how two differ, where a value comes from",
        "show COMMAND|RUN [KEY]… | diff RUN RUN|COMMAND | why COMMAND [KEY]…  [KEY=VALUE]…",
        (
            "mmgen config show run experiment=quickstart",
            "mmgen config show train task=generator dataset=emoji generator trainer.max_steps",
            "mmgen config diff runs/quickstart run generator.num_layers=6",
            "mmgen config why run generator.num_layers stages.generator.trainer.max_steps",
        ),
        (
            "Nothing is run. COMMAND is any command with a config, KEY=VALUE and --config-dir are that command's.",
            "why without a KEY tells of every key the one place that counts.",
        ),
    ),
    "runs": Page(
        "list, show, compare, open and prune runs; give wandb the rows it lost",
        "list | show RUN | compare RUN RUN… | open RUN | prune [RUN]… | replay RUN  [KEY=VALUE]…",
        (
            "mmgen runs list",
            "mmgen runs list state=failed dir=experiments",
            "mmgen runs show runs/quickstart",
            "mmgen runs compare runs/quickstart runs/six out=six.html",
            "mmgen runs open runs/quickstart",
            "mmgen runs prune state=failed older_than=30d",
            "mmgen runs prune runs/quickstart checkpoints=true yes=true",
            "mmgen runs replay runs/quickstart",
        ),
        (
            "prune shows what would go, and removes it with yes=true; a run that is running stays.",
            "replay writes all of metrics.jsonl into an offline wandb run of the same id, for wandb sync.",
        ),
    ),
    "reproduce": Page(
        "run a finished run again, and tell whether the numbers are the same",
        "RUN [KEY=VALUE]…",
        ("mmgen reproduce runs/quickstart", "mmgen reproduce runs/six name=six-on-the-new-torch strict=nothing"),
        (
            "RUN is a run's directory, or the folder of an offline wandb run. Differences in code, versions, machine "
            "and data are told first. Exit code 4: it ran, and a number differs.",
        ),
    ),
    "completion": Page(
        "print a script that completes commands, groups and options in a shell",
        "bash | zsh | fish",
        ("mmgen completion bash", "mmgen completion zsh", "mmgen completion fish"),
        (
            'bash: add  eval "$(mmgen completion bash)"  to ~/.bashrc',
            'zsh: add  eval "$(mmgen completion zsh)"  to ~/.zshrc, after compinit',
            "fish: mmgen completion fish > ~/.config/fish/completions/mmgen.fish",
        ),
    ),
}
RULE = """\
Arguments: KEY=VALUE sets a value or chooses an option of a group; quote a value that has commas or brackets:
'KEY="a, b"'. Whatever stands after -- is no KEY=VALUE. -m runs every combination of KEY=A,B. --config-dir DIR adds a
folder of YAML presets; --cfg job shows the config."""


def overview() -> str:
    """`mmgen --help`."""
    width = max(map(len, PAGES))
    commands = [f"  {name:<{width}}  {page.summary}" for name, page in PAGES.items()]
    return "\n".join(
        [
            "usage: mmgen COMMAND [ARGUMENTS]",
            "",
            "Trains, samples and judges text-to-image models on discrete tokens.",
            "",
            *commands,
            "",
            "installed components (KIND=NAME):",
            *(f"  {kind:<9}  {', '.join(registry.choices(kind)) or '-'}" for kind in registry.KINDS),
            "",
            "  mmgen COMMAND --help     options and an example",
            "  mmgen --version",
            "",
            f"example: {PAGES['sample'].examples[0]}",
        ]
    )


def page(command: str, overrides: list[str], config_dir: Path | None = None) -> str:
    """`mmgen COMMAND [KIND=NAME]… --help`.

    Args:
        overrides: a component chosen there has its options listed.

    Raises:
        ConfigError, PluginError: such a component is unknown or broken.
    """
    about = PAGES[command]
    lines = [
        f"usage: mmgen {command} {about.usage}",
        "",
        f"{about.summary[0].upper()}{about.summary[1:]}.",
        *(line for note in about.notes for line in textwrap.wrap(note, 112)),
    ]
    lines += ["", *(f"example: {example}" for example in about.examples)]
    for action, taken in ACTIONS.get(command, {}).items():
        if own := _keys(options_of(taken)):
            lines += ["", f"keys of {action} (KEY=VALUE):" if action else "keys (KEY=VALUE):", *own]
    if command in COMMANDS:
        root = options_of(COMMANDS[command])
        groups = groups_of(command, places(config_dir))
        lines += ["", "groups (GROUP=OPTION):"]
        lines += [f"  {group:<11} {', '.join(chosen) or '-'}" for group, chosen in groups.items()]
        lines += ["", "keys (KEY=VALUE):", *_keys(own_keys(command))]
        for override in overrides:
            kind, _, name = override.partition("=")
            if kind in registry.KINDS and kind in root:
                lines += ["", f"{kind} {name}:", *_keys(registry.find(kind, name).options(), f"{kind}.")]
        lines += ["", "A component's options: mmgen plugins info NAME", RULE]
    return "\n".join(lines)


def groups_of(command: str, where: list[Place]) -> dict[str, list[str]]:
    """The groups that a command's config has, each with what can be chosen."""
    root = options_of(COMMANDS[command])
    groups = [g for g in (*registry.KINDS, *yaml_groups(where)) if _belongs(g, command, root)]
    return {group: options(group, where) for group in dict.fromkeys(groups)}


def _belongs(group: str, command: str, root: dict[str, Option]) -> bool:
    return group in root or (command in ("run", "train") and group not in (*registry.KINDS, "task", "sweep"))


def own_keys(command: str) -> dict[str, Option]:
    """What a command's config holds besides components."""
    return {key: option for key, option in options_of(COMMANDS[command]).items() if key not in registry.KINDS}


def leaves(options: dict[str, Option], prefix: str = "") -> Iterator[tuple[str, Option | None]]:
    """Every key, dotted, with its option; a stage's task and trainer are one key each, without."""
    for name, option in options.items():
        held = next(
            (t for t in (option.type, *getattr(option.type, "__args__", ())) if dataclasses.is_dataclass(t)), None
        )
        if held is not None and prefix.startswith("stages.") and prefix != "stages.":
            yield f"{prefix}{name}.*", None
        elif held is not None:
            yield from leaves(options_of(held), f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            yield f"{prefix}{name}", option


def _keys(options: dict[str, Option], prefix: str = "") -> list[str]:
    return [f"  {key}" if option is None else key_line(key, option) for key, option in leaves(options, prefix)]


def key_line(key: str, option: Option) -> str:
    """One option in a list: key, default, type, help."""
    default = "" if option.default is REQUIRED else f"={written(option.default)}"
    text = f"{describe(option.type)}{'; required' if option.default is REQUIRED else ''}"
    return f"  {key + default:<44} {text}{'; ' + option.help if option.help else ''}"


def table(rows: list[tuple[Any, ...]]) -> list[str]:
    """Rows as aligned columns."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)] if rows else []
    return ["  ".join(f"{cell!s:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
