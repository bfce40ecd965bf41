"""What a config may hold besides components: the sections of each command, with types, defaults and a line of help.

Components bring their own options (`mmgen.registry`). Nothing here imports torch or Lightning; a test holds
`TrainerConfig` against the signature of Lightning's Trainer.
"""

# ruff: noqa: RUF009 - `_option` makes a dataclasses.field

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

STAGES = ("tokenizer", "generator", "encoder")


def _option(default: Any, help: str = "", **limits: float) -> Any:
    """A dataclass field with a default, a line for the help page, and `low` and `high`, the numbers it may be."""
    metadata = {"help": help, **limits}
    if isinstance(default, list | dict | type):
        return field(default_factory=default if isinstance(default, type) else default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


def _required(help: str) -> Any:
    return field(metadata={"help": help})


@dataclass
class RunConfig:
    name: str = _required("the run's directory is DIR/NAME")
    dir: str = _option("runs", "where runs lie")


@dataclass
class OptimizerConfig:
    name: Literal["adamw", "muon"] = _option("adamw", "muon turns matrices, adamw does the rest")
    lr: float = _option(1e-3, "peak learning rate", low=0)
    betas: tuple[float, float] = _option((0.9, 0.95), "averaging of gradient and of its square")
    eps: float = _option(1e-8, "keeps the division finite", low=0)
    weight_decay: float = _option(0.0, "of matrices only, times the learning rate", low=0)
    embedding_lr: float | None = _option(None, "peak learning rate of embeddings, by adamw; null: lr", low=0)


@dataclass
class DiscriminatorOptimizerConfig:
    lr: float | None = _option(None, "peak learning rate; null: the optimizer's, as for all of these", low=0)
    betas: tuple[float, float] | None = _option(None, "averaging of gradient and of its square")
    eps: float | None = _option(None, "keeps the division finite", low=0)
    weight_decay: float | None = _option(None, "of filters only, times the learning rate", low=0)


@dataclass
class ScheduleConfig:
    warmup_steps: int = _option(0, "linear warm-up", low=0)
    final: float = _option(0.0, "cosine from there to this share of the peak at the end", low=0, high=1)
    steps: int | None = _option(None, "where that end is; null: trainer.max_steps", low=1)


@dataclass
class TextTokenizerConfig:
    vocabulary: str | None = _option(None, "a file with CLIP's own vocabulary; null: one trained on the captions")
    vocab_size: int = _option(1024, "byte-level BPE, trained on the training captions", low=256)
    context_length: int = _option(24, "text tokens; a longer caption is cut, and counted", low=2)
    bpe_dropout: float = _option(0.1, "share of merges dropped in training (Provilkov et al., 2020)", low=0, high=1)


@dataclass
class TaskConfig:
    name: Literal["tokenizer", "generator", "encoder"] = _required("what is trained")
    batch_size: int = _option(64, "pictures a step, over all ranks", low=1)
    optimizer: OptimizerConfig = _option(OptimizerConfig)
    discriminator_optimizer: DiscriminatorOptimizerConfig | None = _option(None, "of a tokenizer's adversary")
    schedule: ScheduleConfig = _option(ScheduleConfig)
    ema_decay: float = _option(0.999, "moving average of the weights; 0 switches it off", low=0, high=1)
    ema_every: int = _option(1, "optimizer steps between two updates of the average", low=1)
    checkpoint_every: int = _option(200, "steps", low=1)
    keep_every: int | None = _option(None, "checkpoints of steps that it divides stay; null: the newest two", low=1)
    alternative_captions: float = _option(0.0, "how often training takes another of a sample's captions", low=0, high=1)
    caption_noise: float = _option(0.0, "share of the training samples whose captions are spoilt", low=0, high=1)
    caption_noise_kind: Literal["another", "words", "dropped", "soup"] = _option(
        "another", "another sample's captions; own words shuffled; half of them; own and others' words as keywords"
    )
    augment: Literal["none", "dalle_tokenizer", "dalle_generator"] = _option("none", "the paper's Listing 1 and 2")
    text_only: float = _option(0.0, "share of the generator's steps that train on captions alone", low=0, high=1)
    num_workers: int = _option(0, "processes that make batches; worth it where pictures are augmented", low=0)
    grouped_by: str | None = _option(None, "attribute; samples that share it share batches: hard negatives")
    group_size: int | None = _option(None, "of these at most follow each other; null: all", low=1)
    shuffle: Literal["full", "blocks"] = _option("full", "blocks: a few shards at a time, for slow disks")
    text_tokenizer: TextTokenizerConfig | None = _option(None, "generator and encoder only")


@dataclass
class TrainerConfig:
    """Arguments of Lightning's Trainer that a config can hold, with Lightning's names and defaults."""

    accelerator: str = _option("auto", "cpu, gpu, auto …")
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true", "fsdp"] = _option(
        "auto", "ddp: each process has all weights; fsdp: a piece of each (FSDP2)"
    )
    tensor_parallel_size: int = _option(1, "processes that share a sample, each with its own heads; fsdp", low=1)
    timeout: float = _option(120.0, "seconds that a collective waits for a process that does not answer", low=1)
    devices: list[int] | int | str = _option("auto", "how many, or which")
    num_nodes: int = _option(1, "machines", low=1)
    precision: Literal[
        "32-true", "bf16-true", "bf16-mixed", "16-true", "16-mixed", "64-true", "transformer-engine",
        "transformer-engine-float16", "64", "32", "16", "bf16",
    ] | None = _option(None, "of the arithmetic")  # fmt: skip
    logger: bool | None = _option(None, "Lightning's own; mmgen brings its own")
    fast_dev_run: int | bool = _option(False, "so many batches, then stop")
    max_epochs: int | None = _option(None)
    min_epochs: int | None = _option(None)
    max_steps: int = _option(-1, "optimizer steps", low=-1)
    min_steps: int | None = _option(None)
    max_time: str | dict[str, int] | None = _option(None, "DD:HH:MM:SS")
    limit_train_batches: int | float | None = _option(None, "a count or a share")
    limit_val_batches: int | float | None = _option(None, "a count or a share")
    limit_test_batches: int | float | None = _option(None, "a count or a share")
    limit_predict_batches: int | float | None = _option(None, "a count or a share")
    overfit_batches: int | float = _option(0.0, "a count or a share")
    val_check_interval: int | float | str | dict[str, int] | None = _option(None, "steps between validations")
    check_val_every_n_epoch: int | None = _option(1, "null: count steps across epochs")
    num_sanity_val_steps: int | None = _option(None)
    log_every_n_steps: int | None = _option(None)
    enable_checkpointing: bool | None = _option(None, "Lightning's own; mmgen writes its own, verified")
    enable_progress_bar: bool | None = _option(None, "Lightning's own; mmgen has its own bars")
    enable_model_summary: bool | None = _option(None)
    accumulate_grad_batches: int = _option(1, low=1)
    gradient_clip_val: float | None = _option(None, "largest norm of the gradient", low=0)
    gradient_clip_algorithm: Literal["norm", "value"] | None = _option(None)
    deterministic: bool | Literal["warn"] | None = _option(None)
    benchmark: bool | None = _option(None, "let cuDNN choose its kernels")
    inference_mode: bool = _option(True)
    use_distributed_sampler: bool = _option(True)
    profiler: str | None = _option(None, "simple, advanced, pytorch")
    detect_anomaly: bool = _option(False, "find the operation that made a NaN; slow")
    barebones: bool = _option(False)
    sync_batchnorm: bool = _option(False)
    reload_dataloaders_every_n_epochs: int = _option(0)
    default_root_dir: str | None = _option(None, "mmgen sets it to the run's directory")
    enable_autolog_hparams: bool = _option(True)
    model_registry: str | None = _option(None)


TRAINER_OWN = ("tensor_parallel_size", "timeout")  # not Lightning's Trainer's, but our strategies'
# Where a training happens, not what it does: a run may go on with others of these.
PLACEMENT = ("devices", "num_nodes", "strategy", "use_distributed_sampler", *TRAINER_OWN)
TRAINER_OBJECTS = ("callbacks", "plugins")  # Trainer arguments that only code can give


@dataclass
class TrackingConfig:
    mode: Literal["offline", "online", "disabled"] = _option("offline", "wandb's mode; metrics.jsonl is written always")
    project: str = _option("mmgen", "wandb's project")
    group: str | None = _option(None, "wandb's group; the run's name by default")
    loggers: list[Literal["csv", "tensorboard"]] = _option([], "Lightning's own, beside metrics.jsonl")
    attention: bool = _option(False, "at each validation of a generator, a picture of where it looks")


@dataclass
class StageConfig:
    task: TaskConfig
    trainer: TrainerConfig = _option(TrainerConfig)


@dataclass
class StagesConfig:
    tokenizer: StageConfig
    generator: StageConfig
    encoder: StageConfig


@dataclass
class DrawingConfig:
    seed: int = _option(1, "of the drawings and of their captions' choice")
    captions: list[str] = _option([], "captions of your own on the sheet, before the held-out ones")
    num_captions: int = _option(16, "rows of the sheet", low=0)
    num_images: int = _option(8, "drawn for each caption; the encoder ranks them", low=1)
    keep: int = _option(4, "shown of them, best first", low=1)
    classified: int = _option(16, "unseen pictures that the report classifies by naming the classes", low=0)


@dataclass
class Training:
    """What `run` and `train` share. Fields named like a kind hold components, checked by the registry; one that may be
    null need not be chosen."""

    run: RunConfig
    seed: int = _option(1, "of the batches, the initial weights and all else that is random", low=0)
    resume: Literal["auto", "never"] = _option("auto", "auto: go on where the run's directory left off")
    dataset: Any = _option(None)
    tokenizer: Any = _option(None)
    generator: Any = _option(None)
    encoder: Any = _option(None)
    sampler: Any = _option(None)
    evaluator: Any = _option(dict)
    trainer: TrainerConfig = _option(TrainerConfig, "Lightning's Trainer")
    tracking: TrackingConfig = _option(TrackingConfig)


@dataclass(kw_only=True)
class RunCommand(Training):
    stages: StagesConfig
    drawing: DrawingConfig = _option(DrawingConfig)
    rivals: dict[str, Any] = _option(
        {}, "by name, further encoders: encoder, task and trainer say what differs, evaluator who judges them too"
    )
    wanted: dict[str, float | None] = _option(
        {}, "figures by EVALUATOR/NAME and what they should reach; told first. null: told first whatever they are"
    )
    tokenizer_from: str | None = _option(None, "a run or an export whose image tokenizer is copied, and none trained")
    generator_from: str | None = _option(None, "a run or an export whose generator is copied, with its tokenizer_from")
    encoder_from: str | None = _option(None, "a run or an export whose encoder is copied, and none trained")


@dataclass(kw_only=True)
class TrainCommand(Training):
    task: TaskConfig
    init_from: str | None = _option(None, "a run or an export whose weights to start from")
    tokenizer_from: str | None = _option(None, "a run or an export whose image tokenizer to use")


DEVICE = "cpu, cuda:0 …; auto: this process's GPU, where there is one"
TOKENIZER_FROM = "a run or an export whose image tokenizer to use"
GENERATOR_FROM = "a run, an export or a run's checkpoint whose generator to use"
ENCODER_FROM = "a run or an export whose encoder ranks, instead of the run's own"


@dataclass
class SampleCommand:
    run: str | None = _option(None, "a run or an export; null: the newest finished run under runs/")
    tokenizer_from: str | None = _option(None, TOKENIZER_FROM)
    generator_from: str | None = _option(None, GENERATOR_FROM)
    encoder_from: str | None = _option(None, ENCODER_FROM)
    num_images: int = _option(8, "drawn for each caption; the encoder ranks them", low=1)
    keep: int | None = _option(None, "kept of them, best first; null: four, or all where fewer are drawn", low=1)
    seed: int = _option(1, "picture number i is a function of the caption, the seed and i alone")
    device: str = _option("auto", DEVICE)
    out: str | None = _option(None, "directory for the pictures; null: a new one under samples/")
    sampler: dict[str, Any] | None = _option(None)


@dataclass
class RedrawCommand(SampleCommand):
    row: int | None = _option(None, "redraws from this row down; with column=, from there to the bottom-right corner")
    column: int | None = _option(None, "redraws from this column to the right")
    mask: str | None = _option(None, "a picture of the same size instead: white is redrawn, black is kept")
    unit: Literal["pixels", "codes"] = _option("pixels", "of row, column and mask; pixels are rounded to whole codes")
    keep_pixels: bool = _option(False, "lay the picture's own pixels over those decoded from kept codes")


@dataclass
class CaptionCommand:
    run: str | None = _option(None, "a run or an export; null: the newest finished run with a generator under runs/")
    tokenizer_from: str | None = _option(None, TOKENIZER_FROM)
    encoder_from: str | None = _option(None, ENCODER_FROM)
    num_captions: int = _option(8, "written for each picture; equal ones are told once", low=1)
    keep: int | None = _option(None, "kept of the different ones at most, best first; null: all", low=1)
    seed: int = _option(1, "caption number i is a function of the picture, the seed and i alone")
    temperature: float = _option(1.0, "0 takes the likeliest token", low=0)
    top_k: int | None = _option(None, "choose among the k likeliest tokens", low=1)
    top_p: float | None = _option(None, "choose among the likeliest tokens that make up this mass", low=0, high=1)
    min_p: float | None = _option(None, "choose among tokens this many times as likely as the likeliest", low=0, high=1)
    device: str = _option("auto", DEVICE)
    out: str | None = _option(None, "a JSON file for the captions; null: print only")


@dataclass
class ClassifyCommand:
    run: str | None = _option(None, "a run or an export; null: the newest finished run under runs/")
    prompts: str | None = _option(None, "labels and templates of a published benchmark: a pack's name, or a file")
    labels: str | None = _option(None, "a text file, one label a line, beside those on the command line")
    templates: list[str] | None = _option(None, "captions with {} for the label; null: the pack's, or the label itself")
    cache: bool = _option(True, "keep the labels' features for the next time, in ~/.cache/mmgen")
    device: str = _option("auto", DEVICE)
    out: str | None = _option(None, "a JSON file for the shares; null: print only")
    html: str | None = _option(None, "a page with the pictures and bars, one file")


@dataclass
class EvaluateCommand:
    run: str | None = _option(None, "a run or an export; null: the newest finished run under runs/")
    runs: list[str] = _option([], "several instead, each judged, with a page that compares them")
    over: Literal["generator", "encoder"] | None = _option(
        None, "judges the run as it was at each checkpoint kept of this part's training, with curves over minutes"
    )
    tokenizer_from: str | None = _option(None, TOKENIZER_FROM)
    generator_from: str | None = _option(None, GENERATOR_FROM)
    encoder_from: str | None = _option(None, ENCODER_FROM)
    dataset: dict[str, Any] | None = _option(None)
    encoder: dict[str, Any] | None = _option(None)
    sampler: dict[str, Any] | None = _option(None)
    evaluator: Any = _option(dict)
    seed: int | None = _option(None, "which pictures are judged, where not all are; null: the run's")
    drawing_seed: int | None = _option(None, "of the drawings; null: the run's")
    device: str = _option("auto", DEVICE)
    out: str | None = _option(None, "directory for what is found; null: a new one under RUN/evaluations/")


@dataclass
class ExportCommand:
    run: str | None = _option(None, "a finished run's directory; also the first positional")
    to: str | None = _option(None, "the directory to write; also the second positional")
    format: Literal["mmgen", "open_clip"] = _option("mmgen", "open_clip: the encoder alone, as its hub folders are")
    precision: Literal["full", "half", "eight"] = _option("full", "of the weights; eight: matrices in 8 bits")
    tokenizer_from: str | None = _option(None, TOKENIZER_FROM)
    encoder_from: str | None = _option(None, "a run or an export whose encoder to take")


@dataclass
class ImportCommand:
    to: str | None = _option(None, "the directory to write; new or empty")
    image_size: int | None = _option(None, "pixels a side; null: what the files say, or were trained at", low=1)
    activation: str | None = _option(None, "clip's, where no file tells it: gelu or quick_gelu")
    vocabulary: str | None = _option(None, "clip's text vocabulary, such as bpe_simple_vocab_16e6.txt.gz")
    heads: list[int] | None = _option(None, "clip's attention heads, of pictures and of text, where no file tells them")
    pixels: str | None = _option(None, "what clip's pictures are normalised by: openai or symmetric; null: as told")
    allow_unused: bool = _option(False, "leave out tensors that nothing takes, instead of refusing the files")


@dataclass(kw_only=True)
class DataCommand:
    to: str | None = _option(None, "the directory of the token shards; new, or one to go on with")
    tokenizer_from: str | None = _option(None, "a run or an export whose image tokenizer makes the tokens")
    dataset: dict[str, Any] | None = _option(None)
    task: TaskConfig
    variants: int = _option(1, "augmented variants of each training picture; they take turns, one an epoch", low=1)
    seed: int = _option(1, "of the augmentation", low=0)
    shard_size: int | None = _option(None, "samples of a shard; null: 4,096, or more to make 1,000 at most", low=1)
    num_workers: int = _option(0, "processes that read pictures", low=0)
    device: str = _option("auto", DEVICE)


@dataclass(kw_only=True)
class PlanCommand:
    generator: Any = _option(None)
    trainer: TrainerConfig = _option(TrainerConfig, "its strategy, precision and tensor_parallel_size count")
    task: TaskConfig
    nodes: list[int] | int = _option(1, "machines; of a list, a line each")
    gpus: int = _option(8, "in each machine", low=1)
    micro_batch: int | None = _option(None, "pictures a GPU reads at once; null: as many as fit", low=1)
    grid: tuple[int, int] = _option((32, 32), "of the image tokenizer")
    codebook_size: int = _option(8192, "of the image tokenizer", low=2)
    tokens: float = _option(563_609_600_000, "to train on; the paper's: 430,000 steps of 1,024 pictures", low=1)
    gpu: Literal["v100", "a100", "h100", "h200"] = _option("h100", "sets the next three")
    memory_gb: float | None = _option(None, "of a GPU", low=0)
    peak_tflops: float | None = _option(None, "of a GPU, dense", low=0)
    price: float | None = _option(None, "of a GPU for an hour, in dollars", low=0)
    mfu: float = _option(0.4, "share of the peak that does the model's operations", low=0.001, high=1)
    headroom: float = _option(0.15, "share of memory on top, for workspaces and fragments", low=0)
    measure: bool = _option(True, "measure memory on fake tensors (minutes for billions); false: estimate it")
    out: str | None = _option(None, "a JSON file for the plan; null: print only")


@dataclass
class SearchConfig:
    name: str | None = _option(None, "the sweep's, and of its directory; null: the preset's")
    dir: str = _option("sweeps", "where sweeps lie")
    command: Literal["auto", "run", "train"] = _option("auto", "what a trial is; auto: train where a task is chosen")
    overrides: list[str] = _option([], "what all trials have in common, beside the command line")
    space: dict[str, Any] = _option({}, "keys of the trials' config, each with what to choose from")
    goal: str | list[str] = _option("val/loss", "a metric, or several; of mmgen run STAGE:METRIC or evaluation:NUMBER")
    direction: str | list[str] | None = _option(None, "minimize or maximize, one a goal; null: minimize a loss")
    value: Literal["last", "best"] = _option("last", "of a training's values of the goal")
    sampler: str | dict[str, Any] = _option("tpe", "one of Optuna's, by name and options")
    pruner: str | dict[str, Any] = _option("none", "one of Optuna's, by name and options")
    prune_on: str | None = _option(None, "the metric by which trials are pruned; null: the goal")
    baseline: bool = _option(True, "the first trial is the recipe as it is")
    first: list[dict[str, Any]] = _option([], "settings to try next, before the sampler is asked")


@dataclass
class SweepCommand:
    sweep: SearchConfig = _option(SearchConfig)
    n_trials: int | None = _option(None, "in all, over starts and workers; null: 20, or what time allows", low=1)
    total_time: str | float | None = _option(None, "no trial begins after so long: seconds, 90m, 2h, 1d")
    total_steps: int | None = _option(None, "no trial begins once they took so many optimizer steps", low=1)
    workers: int = _option(1, "trials at once", low=1)
    devices: list[int] | None = _option(None, "GPUs that the workers share out, one each; null: as they find them")
    storage: str | None = _option(None, "a file, or an address such as sqlite:///sweeps.db; null: in the directory")
    stop_on_failures: bool = _option(True, "give up when more than half of the first eight trials fail")
    grace: float = _option(60.0, "seconds without a sign of another machine, till its trials are given up", low=1)
    wandb: bool = _option(False, "write a W&B sweep's file that runs mmgen, and run nothing")


COMMANDS: dict[str, type] = {
    "run": RunCommand,
    "train": TrainCommand,
    "sample": SampleCommand,
    "redraw": RedrawCommand,
    "caption": CaptionCommand,
    "classify": ClassifyCommand,
    "evaluate": EvaluateCommand,
    "export": ExportCommand,
    "import": ImportCommand,
    "data": DataCommand,
    "plan": PlanCommand,
    "sweep": SweepCommand,
}
