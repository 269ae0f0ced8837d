"""`python -m bench`: the commands behind the figures of LOG.md, README and the quality cards."""

from __future__ import annotations

import typer

import bench.chaos
import bench.compare
import bench.drills
import bench.stack
from bench import checkpoints, exports, masks, queue, scaling, tensorrt, variants
from bench.chaos import run as chaos
from bench.compare import command as compare
from bench.drills import run as drills
from bench.gpu import host
from bench.gpu import run as gpu
from bench.peers import commands as peers
from bench.stack import classify, facade, idle, in_process, long_prompts, memory, records, start
from cli.command import Commands

app = typer.Typer(
    name="python -m bench",
    cls=Commands,
    help=__doc__,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("checkpoint", help=checkpoints.__doc__)(checkpoints.checkpoint)
app.command("exports", help=exports.__doc__)(exports.exports)
app.command("variants", help=variants.__doc__)(variants.variants)
app.command("compare", help=bench.compare.__doc__)(compare.compare)
app.command("gpu", help=gpu.__doc__)(gpu.gpu)
app.command("host", help=host.__doc__)(host.host)
app.command("tensorrt", help=tensorrt.__doc__)(tensorrt.tensorrt)
app.command("scaling", help=scaling.__doc__)(scaling.scaling)
app.command("chaos", help=bench.chaos.__doc__)(chaos.chaos)
app.command("drills", help=bench.drills.__doc__)(drills.drills)
app.command("masks", help=masks.__doc__)(masks.masks)
app.command("queue", help=queue.__doc__)(queue.queue)
app.add_typer(peers.peers, name="peers")

stack = typer.Typer(help=bench.stack.__doc__, no_args_is_help=True, rich_markup_mode="markdown")
stack.command("in-process", help=in_process.__doc__)(in_process.in_process)
stack.command("facade", help=facade.__doc__)(facade.facade)
stack.command("classify", help=classify.__doc__)(classify.classify)
stack.command("long-prompts", help=long_prompts.__doc__)(long_prompts.long_prompts)
stack.command("idle", help=idle.__doc__)(idle.idle)
stack.command("memory", help=memory.__doc__)(memory.memory)
stack.command("records", help=records.__doc__)(records.records)
stack.command("start", help=start.__doc__)(start.start)
app.add_typer(stack, name="stack")

if __name__ == "__main__":
    app()
