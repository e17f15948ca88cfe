"""`cag-uda pack`: a run's network as one file from which others adapt without the source."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cag_uda.cli.console import OnConsole, begin
from cag_uda.cli.group import refuse_existing
from cag_uda.cli.options import Accelerator, DataRoot, Overwrite
from cag_uda.errors import UserError


def pack(
    run: Annotated[Path, typer.Argument(help="A run folder, whose source must be there.")],
    out: Annotated[
        Path | None, typer.Option(help="The file; default: RUN/pack.safetensors.")
    ] = None,
    stage: Annotated[
        str | None, typer.Option(help="Stage of the network; default: the delivered one's.")
    ] = None,
    data_root: DataRoot = None,
    overwrite: Overwrite = False,
    accelerator: Accelerator = "auto",
) -> None:
    """Write what adapting without the source needs as one file: network, anchors, no image."""
    file = out or run / "pack.safetensors"
    if file.suffix != ".safetensors":
        raise UserError(
            f"--out {file}: a pack is a .safetensors file; call it {file.stem}.safetensors"
        )
    refuse_existing(file, overwrite)
    console = begin(f"reading {run}")
    from cag_uda.models.pack import save_pack
    from cag_uda.prediction.packing import pack_run

    packed = pack_run(
        run,
        stage=stage,
        data_root=data_root,
        accelerator=accelerator,
        watch=partial(OnConsole(console).update, "anchors"),
    )
    save_pack(file, packed.pack)
    counts = packed.pack.figures.counts
    console.print(
        f"{file}: {file.stat().st_size / 2**20:.1f} MiB; the network of {packed.network}, and "
        f"anchors of {int((counts > 0).sum())} of {len(counts)} classes by {packed.images} images "
        f"of {packed.pack.source}; no image is in it",
        soft_wrap=True,
    )
