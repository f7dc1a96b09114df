"""``oculox serve``."""

from __future__ import annotations

from typing import Annotated

import typer

from oculox.cli import options as o
from oculox.cli.console import note, print_json, say


def serve(
    weights: o.Model,
    host: Annotated[
        str, typer.Option(help="IP address to listen on; 0.0.0.0: all network interfaces.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    workers: Annotated[
        int, typer.Option(min=1, help="Server processes; each opens the model.")
    ] = 1,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="OCULOX_API_KEY",
            show_envvar=True,
            help="Key that requests have to send; better set in the environment.",
        ),
    ] = None,
    allow_urls: Annotated[
        bool, typer.Option("--allow-urls", help="Fetch images from public URLs that requests name.")
    ] = False,
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch of the network.")] = 8,
    max_wait_ms: Annotated[float, typer.Option(min=0, help="Longest wait for a fuller batch.")] = 5,
    max_requests: Annotated[
        int, typer.Option(min=1, help="Most requests at once; others get status 429.")
    ] = 256,
    max_mb: Annotated[float, typer.Option(help="Largest upload in MiB.")] = 20,
    max_megapixels: Annotated[
        float, typer.Option(help="Largest image in millions of pixels.")
    ] = 50,
    max_seconds: Annotated[float, typer.Option(help="Time limit of a request.")] = 30,
    conf: o.Conf = 0.3,
    iou: o.Iou = 0.45,
    max_det: o.MaxDet = 1000,
    agnostic_nms: o.AgnosticNms = False,
    imgsz: o.ImageSize = None,
    device: o.Device = "auto",
    precision: o.Precision = "fp32",
    backend: o.Backend = None,
    json: o.Json = False,
) -> None:
    """Answer requests over HTTP, with a page to try it on.

    The thresholds are those of requests that name none. Ctrl-C or SIGTERM ends it, after the
    requests that run.
    """
    from oculox.extras import require

    for package in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
        require(package, extra="serve", purpose="the service")
    from oculox.serve.limits import Limits
    from oculox.serve.run import ServeOptions
    from oculox.serve.run import serve as run

    def started(address: str) -> None:
        if json:
            print_json({"address": address, "model": str(weights)})
        else:
            say(f"{weights} at {address} (Ctrl-C ends it)")
        if api_key is None and host not in ("127.0.0.1", "::1", "localhost"):
            note("warning: no --api-key is set: everybody who can reach this URL may use it")

    options = ServeOptions(
        model=str(weights),
        detector={
            "conf": conf,
            "iou": iou,
            "max_det": max_det,
            "agnostic_nms": agnostic_nms,
            "imgsz": imgsz,
            "device": device,
            "precision": precision,
            "backend": backend,
        },
        limits=Limits(
            max_batch=max_batch,
            max_wait_ms=max_wait_ms,
            max_requests=max_requests,
            max_mb=max_mb,
            max_megapixels=max_megapixels,
            max_seconds=max_seconds,
        ),
        api_key=api_key or None,
        allow_urls=allow_urls,
    )
    run(options, host=host, port=port, workers=workers, started=started)
