"""`mmgen plan generator=NAME nodes=N gpus=G`: what training a generator would take, before anybody pays for it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from mmgen import registry
from mmgen.commands.measured import measured
from mmgen.errors import ConfigError, quoted
from mmgen.files import write_atomic
from mmgen.tasks import costs
from mmgen.tasks.costs import Memory, Setting
from mmgen.tasks.memory import SizesOnly
from mmgen.tasks.parallel import check_parallel

GB = 1e9
CONTEXT = 1.5 * GB  # what CUDA and NCCL take before the first tensor


@dataclass(frozen=True)
class Gpu:
    """A GPU's memory in GB, its peak in TFLOP/s of dense bf16 (fp16 on the V100), and dollars an hour."""

    memory_gb: float
    peak_tflops: float
    price: float


# Memory and peak: NVIDIA's data sheets, of the SXM models. Prices: what a GPU was let for on demand by specialised
# clouds in the first half of 2026 (pricegpu.pages.dev, mercatus-ai.com; V100: AWS p3). They move; price=… sets yours.
GPUS = {
    "v100": Gpu(16, 125, 3.06),
    "a100": Gpu(80, 312, 2.0),
    "h100": Gpu(80, 989, 3.0),
    "h200": Gpu(141, 989, 4.0),
}


@dataclass
class Row:
    """The plan for one number of GPUs."""

    nodes: int
    gpus: int
    micro_batch: int
    passes: int  # a process makes before the weights change
    memory: Memory
    measured: bool
    fits: bool
    change: str  # the smallest one that makes it fit
    tokens_a_second: float
    days: float
    cost: float


def main(config: dict[str, Any], positionals: list[str]) -> int:
    """Prints the plan, and writes it as JSON to `out`."""
    plan = _Plan(config)
    nodes = config["nodes"] if isinstance(config["nodes"], list) else [config["nodes"]]
    if not nodes or min(nodes) < 1:
        raise ConfigError(f"nodes is {quoted(nodes)}", code="MMG-C50", where="nodes", fix="nodes=2 or nodes=[2,4]")
    rows = [plan.row(count) for count in nodes]
    if config["out"]:
        record = {"generator": config["generator"], **plan.facts(), "rows": [asdict(row) for row in rows]}
        write_atomic(Path(config["out"]), json.dumps(record, indent=1).encode())
    _print(plan, rows)
    return 0


class _Plan:
    """A config's generator on the meta device, and what is asked about it."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config, self.trainer = config, config["trainer"]
        known = GPUS[config["gpu"]]
        given = {key: config[key] for key in ("memory_gb", "peak_tflops", "price") if config[key] is not None}
        self.gpu = Gpu(**{**asdict(known), **given})
        self.generator = self.build()
        check_parallel(self.generator, self.trainer["tensor_parallel_size"])
        self.flops = costs.training_flops(self.generator)

    def build(self, **changes: Any) -> Any:
        """The generator on the meta device.

        Raises:
            ConfigError: MMG-C51, it is none that can be counted.
        """
        config, text = self.config, self.config["task"]["text_tokenizer"]
        if text is None:
            raise ConfigError("the task has no text tokenizer", code="MMG-C51", where="task", fix="task=generator")
        with torch.device("meta"):
            generator = registry.build(
                "generator",
                {**config["generator"], **changes},
                text_tokenizer=SizesOnly(text["vocab_size"], text["context_length"]),
                grid=tuple(config["grid"]),
                codebook_size=config["codebook_size"],
            )
        wanted = ("blocks", "text_head", "image_head", "gradient_checkpointing")
        lacking = [name for name in wanted if not hasattr(generator, name)]
        if lacking:
            raise ConfigError(
                f"the generator {quoted(config['generator']['name'])} cannot be counted",
                code="MMG-C51",
                where="generator",
                why=f"it has no {', '.join(lacking)}; only transformers built as mmgen's own can",
                fix="generator=transformer, or a preset of it",
            )
        return generator

    def row(self, nodes: int) -> Row:
        """The plan for so many machines.

        Raises:
            ConfigError: MMG-C50, the batch cannot be spread over so many.
        """
        config, tensor_parallel = self.config, self.trainer["tensor_parallel_size"]
        ranks, batch = nodes * config["gpus"], config["task"]["batch_size"]
        groups, rest = divmod(ranks, tensor_parallel)
        if rest or groups == 0 or batch % groups:
            raise ConfigError(
                f"a batch of {batch} cannot be spread over {ranks} GPUs in groups of {tensor_parallel}",
                code="MMG-C50",
                where="task.batch_size",
                why="every group reads equally many of its pictures",
                fix=f"task.batch_size={max(1, batch // max(groups, 1)) * max(groups, 1)}",
            )
        share = batch // groups
        setting = Setting(
            ranks=ranks,
            tensor_parallel_size=tensor_parallel,
            sharded=self.trainer["strategy"] == "fsdp",
            mixed=self.trainer["precision"] == "bf16-mixed",
            optimizer=config["task"]["optimizer"]["name"],
            averaged=config["task"]["ema_decay"] > 0,
        )
        micro = config["micro_batch"] or costs.largest_micro_batch(self.generator, setting, share, self.fits)
        if share % micro:
            text = f"a process's {share} pictures a step cannot be read {micro} at a time"
            raise ConfigError(text, code="MMG-C50", where="micro_batch", fix="micro_batch=1")
        setting = costs.with_(setting, micro_batch=micro)
        can = config["measure"] and setting.sharded and setting.optimizer == "adamw"
        memory = measured(self, setting) if can else costs.estimate(self.generator, setting)
        speed = ranks * self.gpu.peak_tflops * 1e12 * config["mfu"] / (self.flops / self.generator.stream.length)
        days = config["tokens"] / speed / 86_400
        fits = self.fits(memory)
        change = "" if fits else self._smallest_change(setting, nodes, share)
        cost = days * 24 * ranks * self.gpu.price
        return Row(nodes, ranks, micro, share // micro, memory, can, fits, change, speed, days, cost)

    def fits(self, memory: Memory) -> bool:
        """Whether it goes into a GPU's memory, with room for what is not counted."""
        return self.needed(memory) <= self.gpu.memory_gb * GB

    def needed(self, memory: Memory) -> float:
        """Bytes, with the room for workspaces and fragments, and what CUDA takes."""
        return memory.total * (1 + self.config["headroom"]) + CONTEXT

    def _smallest_change(self, setting: Setting, nodes: int, share: int) -> str:
        """What to write so that it fits, by the estimate: fewer pictures at a time, then computing activations twice,
        then pieces of the weights, then more machines."""
        again = self.build(gradient_checkpointing=True)
        smaller = [n for n in range(setting.micro_batch - 1, 0, -1) if share % n == 0]
        for generator, text in ((self.generator, ""), (again, "generator.gradient_checkpointing=true")):
            for micro in [setting.micro_batch, *smaller]:
                if self.fits(costs.estimate(generator, costs.with_(setting, micro_batch=micro))):
                    words = [text, f"micro_batch={micro}" if micro != setting.micro_batch else ""]
                    return " ".join(word for word in words if word)
        if not setting.sharded:
            return "trainer=fsdp"
        for times in (2, 4, 8, 16, 32, 64, 128):
            larger = costs.with_(setting, ranks=setting.ranks * times, micro_batch=1)
            if share >= times and self.fits(costs.estimate(again, larger)):
                words = [f"nodes={nodes * times}", "micro_batch=1" if self.config["micro_batch"] else ""]
                words += [] if self.generator.gradient_checkpointing else ["generator.gradient_checkpointing=true"]
                return " ".join(word for word in words if word)
        return "a GPU with more memory"

    def facts(self) -> dict[str, Any]:
        """What does not depend on the number of GPUs."""
        parts = costs.parts(self.generator)
        return {
            "parameters": sum(parts.values()),
            "parts": parts,
            "flops_a_picture": self.flops,
            "flops_a_step": self.flops * self.config["task"]["batch_size"],
            "tokens_a_picture": self.generator.stream.length,
            "tokens": self.config["tokens"],
            "gpu": {"name": self.config["gpu"], **asdict(self.gpu)},
            "mfu": self.config["mfu"],
        }


def _print(plan: _Plan, rows: list[Row]) -> None:
    facts, config = plan.facts(), plan.config
    console = Console(width=None if Console().is_terminal else 132)
    name, total = config["generator"]["name"], facts["parameters"]
    console.print(f"{name}: {total:,} parameters")
    parts = Table(box=None, pad_edge=False, show_header=False)
    for part, count in facts["parts"].items():
        parts.add_row(f"  {part}", f"{count:,}", f"{count / total:.1%}")
    console.print(parts)
    console.print(
        f"a step of {config['task']['batch_size']:,} pictures, {facts['tokens_a_picture']:,} tokens each: "
        f"{facts['flops_a_step']:.3g} FLOP ({facts['flops_a_picture']:.3g} a picture)\n"
        f"{config['tokens']:,.0f} tokens on {config['gpu']}s of {plan.gpu.memory_gb:g} GB, "
        f"{plan.gpu.peak_tflops:g} TFLOP/s at an MFU of {config['mfu']:.0%}, ${plan.gpu.price:g} an hour\n",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    heads = ("GPUs", "at once", "weights", "grads", "optimizer", "average", "gathered", "activations", "GB needed")
    for head in (*heads, "tokens/s", "days", "cost"):
        table.add_column(head, justify="right")
    table.add_column("fits")
    for row in rows:
        m = row.memory
        sizes = [m.weights, m.gradients, m.optimizer, m.average, m.gathered, m.activations, plan.needed(m)]
        table.add_row(
            f"{row.gpus:,}", f"{row.micro_batch}×{row.passes}", *(f"{size / GB:.1f}" for size in sizes),
            f"{row.tokens_a_second:,.0f}", f"{row.days:,.1f}", f"${row.cost:,.0f}", "yes" if row.fits else "NO",
        )  # fmt: skip
    console.print(table)
    for row in rows:
        if not row.fits:
            console.print(f"{row.gpus:,} GPUs do not suffice; this does: {row.change}", highlight=False)
    how = "measured on fake tensors" if all(row.measured for row in rows) else "estimated"
    console.print(
        f"memory {how}; needed: {config['headroom']:.0%} more, and {CONTEXT / GB:g} GB for CUDA", highlight=False
    )
