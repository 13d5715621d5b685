"""--mode export: the network as another codebase reads it."""

from scoreflow.cli.console import say
from scoreflow.schema.request import Request
from scoreflow.storage.atomic_files import check_writable
from scoreflow.trained_run import open_run


def run(request: Request, _argv: list[str]) -> None:
    """Write it, and say how it is read."""
    assert request.target is not None, "the command line refuses an export without --to"
    to, out, weights = request.target.format, request.target.path, request.target.weights
    check_writable(out.parent, "choose another --out")
    trained = open_run(request, say)
    trained.export(to, out, weights)
    read = (
        f"diffusers.DDPMPipeline.from_pretrained({str(out)!r})"
        if to == "diffusers"
        else f"safetensors.torch.load_file({str(out)!r})"
    )
    say(f"{weights} weights of {trained.folder.path}, written to {out}: {read}")
    conditional = trained.config.model.conditional and trained.config.model.null_class
    if to == "diffusers" and conditional:
        say("class_labels there: 0 for no class, 1 + k for class k")
