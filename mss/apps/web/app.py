"""The web demo: a page of gradio's, and the server that gives it to a browser and nothing else to anybody.

The work is done by `mss.apps.web.visits`; `mss.apps.web.guard` stands before all of it.
"""

from __future__ import annotations

import contextlib
import html
import os
import re
import socket
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# gradio would tell its makers of every start
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of tools for formats that are not used here
    import gradio as gr
import uvicorn
from fastapi import FastAPI
from fastapi.responses import FileResponse, Response

from mss.apps.pages import asset
from mss.apps.staging import remove_stale, staging
from mss.apps.web.catalogue import Catalogue, Refusal
from mss.apps.web.guard import Guard, Limits
from mss.apps.web.visits import Visits
from mss.cli import UsageError

__all__ = ["Server", "serving"]

TITLE = "Musical source separation"
LOUDEST, SOFTEST = 12, -40  # dB, of a fader
UNUSED_HOURS = 1  # after which an upload is removed that no visit has the end of


class Server(uvicorn.Server):
    """The demo, listening at `url`; `run()` serves until it is interrupted, or `should_exit` is set.

    Args:
        catalogue: of models.
        limits: of songs and of the queue.
        folder: for all that is kept meanwhile.
        host, port: where to listen; port 0 is a free one.

    Raises:
        UsageError: there is nothing to listen on.
    """

    def __init__(self, catalogue: Catalogue, limits: Limits, folder: Path, *, host: str, port: int) -> None:
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            self.socket = socket.create_server((host, port), family=family)
        except (OSError, OverflowError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(
                f"cannot listen on {host}, port {port} ({reason}): choose another --port or --host"
            ) from error
        self.port = self.socket.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.port}/"
        self.visits = Visits(folder, catalogue, limits)
        self.demo = page_of(self.visits)
        app = application(self.visits, self.demo, folder / "uploads", host=host)
        config = uvicorn.Config(
            app,
            host=host,
            port=self.port,
            log_level="error",
            access_log=False,
            lifespan="on",
            timeout_graceful_shutdown=2,
        )
        super().__init__(config)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.visits.stop_all()  # else it would wait for the work
        await super().shutdown(sockets)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            super().run(sockets=sockets or [self.socket])
        finally:
            self.socket.close()
            self.visits.close_all()


@contextlib.contextmanager
def serving(catalogue: Catalogue, limits: Limits, *, host: str = "127.0.0.1", port: int = 7860) -> Iterator[Server]:
    """A server and a temporary folder, which goes when it ends; of one that was killed, at the next start."""
    root = Path(tempfile.gettempdir())
    remove_stale(root)
    before = os.environ.get("GRADIO_TEMP_DIR"), tempfile.tempdir
    with staging(root) as folder:
        # where gradio keeps what comes, and whatever else is not done when the process ends
        os.environ["GRADIO_TEMP_DIR"], tempfile.tempdir = str(folder / "uploads"), str(folder)
        (folder / "uploads").mkdir()
        try:
            yield Server(catalogue, limits, folder, host=host, port=port)
        finally:
            os.environ.pop("GRADIO_TEMP_DIR")
            if before[0] is not None:
                os.environ["GRADIO_TEMP_DIR"] = before[0]
            tempfile.tempdir = before[1]


def application(visits: Visits, demo: gr.Blocks, folder: Path, *, host: str) -> Any:
    """The ASGI application: gradio's page, and the files that tokens stand for, behind the guard."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.api_route("/sound/{token}", methods=["GET", "HEAD"])
    def sound(token: str) -> Response:
        kept = visits.kept.get(token)
        if kept is None or kept.path.suffix != ".wav":
            return Response("This is no longer here: separate the song again.", 404)
        return FileResponse(
            kept.path, media_type="audio/wav", filename=kept.name, headers={"Cache-Control": "no-store"}
        )

    @app.api_route("/page/{token}", methods=["GET", "HEAD"])
    def page(token: str) -> Response:
        kept = visits.kept.get(token)
        if kept is None or kept.path.suffix != ".html":
            return Response("This is no longer here: separate the song again.", 404)
        # the page says itself what it may load; here, that it is of no origin
        policy = {
            "Content-Security-Policy": "sandbox allow-scripts; frame-ancestors 'self'",
            "Cache-Control": "no-store",
        }
        return FileResponse(kept.path, media_type="text/html; charset=utf-8", headers=policy)

    fonts = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
    gr.mount_gradio_app(
        app,
        demo,
        path="/",
        server_name=host,
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=visits.limits.bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(font=fonts[0], font_mono=fonts[1]),
        css=asset("web.css"),
    )
    demo.has_launched = True  # else gradio does not check paths at all when it is mounted
    return Guard(app, host=host, limits=visits.limits, folder=folder, uploads=lambda: tuple(demo.upload_file_set))


def page_of(visits: Visits) -> gr.Blocks:
    """The page and what its buttons do."""
    catalogue, limits = visits.catalogue, visits.limits
    first = next(iter(catalogue.offers))
    choices = [(f"{offer.name} ({', '.join(offer.targets)})", name) for name, offer in catalogue.offers.items()]
    age = round(3600 * UNUSED_HOURS)
    private = {"api_visibility": "private"}
    work = {"concurrency_id": "work", "concurrency_limit": 1, **private}
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, age), fill_width=False) as demo:
        gr.HTML(
            f"<h1>{TITLE}</h1><p>Take a song apart: hear its stems, see them, mix them anew. Files of up to "
            f"{limits.megabytes:g} MB and {limits.minutes:g} minutes; they stay on the machine that runs this page, and are "
            "removed when you close it.</p>"
        )
        upload = gr.File(label="Song: drop it here", height=150, elem_id="song")
        method = gr.Dropdown(choices, value=first, label="Method", elem_id="method")
        about = gr.HTML(about_html(visits, first), elem_id="about")
        with gr.Row():
            start = gr.Button("Separate", variant="primary", elem_id="separate")
            cancel = gr.Button("Stop", elem_id="stop")
        status = gr.HTML(told("Drop a song to begin."), elem_id="status")
        with gr.Column(visible=False, elem_id="result") as result:
            stems = gr.HTML(elem_id="stems")
            with gr.Accordion("Remix", open=True):
                faders: list[Any] = []
                rows: list[Any] = []
                for _ in range(catalogue.most):
                    with gr.Row(visible=False, elem_classes="fader") as row:
                        faders += [
                            gr.Slider(SOFTEST, LOUDEST, 0, step=0.5, label="gain, dB", scale=3, min_width=200),
                            gr.Slider(-100, 100, 0, step=5, label="pan", scale=2, min_width=200),
                            gr.Checkbox(False, label="mute", scale=1, min_width=80),
                        ]
                    rows.append(row)
                mix = gr.Button("Make the remix", variant="primary", elem_id="mix")
                remix = gr.HTML(elem_id="remix")
            page = gr.HTML(elem_id="page")
        outputs = [status, result, stems, page, remix, *rows, *faders]
        cleared = [gr.update(visible=False), "", "", "", *([gr.skip()] * (len(rows) + len(faders)))]

        def accept(path: str | None, request: gr.Request) -> list[Any]:
            if path is None:
                visits.close(request.session_hash)
                return [told("Drop a song to begin."), *cleared]
            try:
                return [told(visits.accept(request.session_hash, Path(path))), *cleared]
            except Refusal as error:
                return [told(error, refused=True), *cleared]
            finally:
                Path(path).unlink(missing_ok=True)  # the visit has its own
                with contextlib.suppress(OSError):
                    Path(path).parent.rmdir()

        def separate(name: str, request: gr.Request, progress: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
            def told_of(share: float, text: str) -> None:
                progress(share, desc=text)

            try:
                report, token, tokens = visits.separate(request.session_hash, name, told_of)
            except Refusal as error:
                return [told(error, refused=True), *cleared]
            return [
                told(f"{name}: {report.seconds:.0f} s of music in {report.elapsed:.1f} s"),
                gr.update(visible=True),
                sounds_html(tokens),
                page_html(token),
                "",
                *(gr.update(visible=i < len(tokens)) for i in range(len(rows))),
                *set_faders(tuple(tokens), len(rows)),
            ]

        def remixed(request: gr.Request, *values: Any) -> str:
            settings = [(gain, bool(mute), pan) for gain, pan, mute in zip(*[iter(values)] * 3, strict=True)]
            try:
                token, said = visits.remix(request.session_hash, settings)
            except (Refusal, TypeError) as error:  # the latter: a value that is no number
                return told(error, refused=True)
            return sounds_html({"remix": token}) + "".join(map(told, said))

        def give_up(request: gr.Request) -> None:
            visits.give_up(request.session_hash)

        def leave(request: gr.Request) -> None:
            visits.close(request.session_hash)

        upload.change(accept, upload, outputs, show_progress_on=status, concurrency_limit=2, **private)
        start.click(separate, method, outputs, show_progress_on=status, **work)
        mix.click(remixed, faders, remix, **work)
        method.change(
            lambda name: about_html(visits, name), method, about, queue=False, show_progress="hidden", **private
        )
        cancel.click(give_up, None, None, queue=False, **private)
        demo.unload(leave)
    demo.queue(max_size=limits.queue, default_concurrency_limit=1, api_open=False)  # no way around the queue
    return demo


def told(text: object, *, refused: bool = False) -> str:
    """A line for the visitor."""
    return f"<p{' class=refused role=alert' if refused else ' role=status'}>{html.escape(str(text))}</p>"


def about_html(visits: Visits, name: object) -> str:
    offer = visits.catalogue.offers.get(name) if isinstance(name, str) else None
    return "" if offer is None else f"<p>{html.escape(offer.about)}</p>"


def sounds_html(tokens: Mapping[str, str]) -> str:
    """Players, each with a link to save the file."""
    rows = (
        f'<li><strong>{html.escape(name)}</strong><audio controls preload="metadata" src="sound/{token}" '
        f'aria-label="{html.escape(name)}"></audio><a href="sound/{token}" download>Download</a></li>'
        for name, token in tokens.items()
    )
    return f'<ul class="mss-sounds">{"".join(rows)}</ul>'


def page_html(token: str) -> str:
    """The page of players and figures, in a frame that nothing can get out of."""
    return (
        f'<a class="mss-open" href="page/{token}" target="_blank" rel="noopener">Open the page alone</a>'
        f'<iframe class="mss-page" sandbox="allow-scripts" src="page/{token}" '
        'title="Stems together, waveforms, spectrograms and figures"></iframe>'
    )


def set_faders(names: Sequence[str], rows: int) -> list[Any]:
    """Faders of these stems, at rest."""
    updates = []
    for name in [*names, *[""] * (rows - len(names))]:
        label = re.sub(r"\s+", " ", name)
        updates += [
            gr.update(value=0, label=f"{label}: gain, dB"),
            gr.update(value=0, label=f"{label}: pan"),
            gr.update(value=False, label=f"mute {label}"),
        ]
    return updates
