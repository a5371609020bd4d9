"""Which commit a cell says that it was trained by."""

import subprocess

import pytest

from sparsedc.train import metrics


@pytest.fixture
def git(tmp_path, monkeypatch):
    """Runs git in a checkout, in which the package's files lie in a folder of its own."""
    package = tmp_path / "site-packages" / "metrics.py"
    package.parent.mkdir()
    package.touch()
    monkeypatch.setattr(metrics, "__file__", str(package))
    identity = ["-c", "user.name=somebody", "-c", "user.email=s@example.org"]

    def run(*arguments):
        ended = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return ended.stdout.strip()

    run("init", "--quiet")
    run("commit", "--quiet", "--allow-empty", "--message", "first")
    return run


def test_a_copy_in_another_checkout_has_none(git):
    assert metrics.commit() == "unknown"


def test_a_checkout_has_its_own_and_says_whether_it_was_changed(git, tmp_path):
    git("add", "--all")
    git("commit", "--quiet", "--message", "second")
    head = git("rev-parse", "HEAD")
    assert metrics.commit() == head[:12]
    (tmp_path / "site-packages" / "metrics.py").write_text("changed")
    assert metrics.commit() == f"{head[:12]}-dirty"
