"""Trackio."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .tracker import Page, Row, Tracker, flat, numbers

MARK = "train_seconds"  # every row has it, and no summary


class Trackio(Tracker):
    """Sends a run to Trackio: its local database (`trackio show`; TRACKIO_DIR), a Hugging Face Space, or a server.

    Trackio has no states and no summary: the summary is a last row, with its numbers as `summary/NAME` and `status`.

    Args:
        project: of Trackio.
        space_id: a Space, as in user/name; None: as TRACKIO_SPACE_ID says, else the local database.
        server_url: a server of one's own; None: as TRACKIO_SERVER_URL says.
        group: of runs that belong together; None: the name of the sweep, for a run of one.
        timeout: as for a tracker, in seconds.
        folder: as for a tracker.
        say: as for a tracker.
    """

    name = "trackio"

    def __init__(
        self,
        project: str = "trainopt",
        space_id: str | None = None,
        server_url: str | None = None,
        group: str | None = None,
        timeout: float = 60.0,
        folder: Path | None = None,
        say: Callable[[str], None] = print,
    ):
        self._project, self._space, self._server, self._group = project, space_id, server_url, group
        settings = {"project": project, "space_id": space_id, "server_url": server_url, "group": group}
        super().__init__("trackio", settings, timeout, folder, say)

    @property
    def destination(self) -> str:
        """The project, and where it is."""
        place = self._space or self._server
        return f"{self._project}{f' ({place})' if place else ''}"

    def open(self, page: Page) -> str:
        """Begins a run, or goes on with it; a run is known by its name, which ends with the id."""
        import trackio

        self._run = trackio.init(
            project=self._project,
            name=f"{page.name}-{page.id}",
            group=self._group or page.group,
            space_id=self._space,
            server_url=self._server,
            config={**flat(page.config), **flat({"environment": page.environment})},
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self._count = 0  # rows sent in this session
        self._before = self._rows_in_database()
        return f"run {self._run.name} of {self.destination}"

    def _rows_in_database(self) -> int:
        """Returns the number of rows of the run in the local database."""
        from trackio.sqlite_storage import SQLiteStorage

        logs = SQLiteStorage.get_logs(self._project, self._run.name, run_id=self._run.id)
        return sum(MARK in log for log in logs)

    @property
    def _is_local(self) -> bool:
        return self._run.url is None

    def send(self, rows: list[Row]) -> None:
        """Hands rows to Trackio's thread."""
        for row in rows:
            self._run.log({**row.values, **row.axes}, step=row.step)
        self._count += len(rows)

    def unsent(self, rows: list[Row]) -> list[Row]:
        """Returns the rows that the local database lacks; none of those of a Space or a server, which may have them."""
        return [row for row in rows if row.number >= self._before] if self._is_local else []

    def finish(self, status: str, summary: dict[str, Any]) -> None:
        """Writes the summary as a row, and waits until the database has all rows."""
        values = {f"summary/{name}": value for name, value in numbers(summary).items()}
        self._run.log({**values, "status": status}, step=summary.get("steps") or 0)
        self._run.finish()
        if self._is_local and (count := self._rows_in_database()) < self._before + self._count:
            raise TimeoutError(f"the database has {count} of {self._before + self._count} rows")
