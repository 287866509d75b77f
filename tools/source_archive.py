"""The source archive: the package and all that its tests read. setuptools runs this: see pyproject.toml."""

from __future__ import annotations

from setuptools.command.sdist import sdist

__all__ = ["SourceArchive"]


class SourceArchive(sdist):
    """``sdist`` with tests, tools, docs, findings and the script of CI."""

    def make_distribution(self) -> None:
        """Add them to what setuptools has found, then pack as it does."""
        for folder in (".ci", "docs", "findings", "tests", "tools"):
            self.filelist.graft(folder)
        self.filelist.global_exclude("*.py[cod]")
        super().make_distribution()
