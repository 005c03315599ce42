"""Running costs in repositories of the Hugging Face hub: found, downloaded, uploaded, never pickles.

The functions of huggingface_hub are used, not its `ModelHubMixin`: that reads config.json before it was
checked, hands what it finds there to ``__init__``, and is imported with the class.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from bridges.cost.card import CARD_FILE, is_as_written
from bridges.cost.files import CONFIG_FILE, WEIGHTS_FILE, read_config
from bridges.errors import BadInput, shown

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_LOG_IN = "log in (hf auth login), or give token="


@contextmanager
def found(
    source: str | os.PathLike[str], subfolder: str | None, *, revision: str | None = None, **options: Any
) -> Iterator[Path]:
    """The folder of a saved cost, which is downloaded if it is on the hub; what is there here wins.

    Args:
        source: a folder, or a text ``owner/name``, which is one of the hub where no such folder is.
        subfolder: of the folder or repository.
        revision: branch, tag or commit of the repository.
        **options: of `huggingface_hub.hf_hub_download`.

    Raises:
        BadInput: for what is neither, and for all that goes wrong with the hub. An error in the block
            names the repository.
    """
    inside = _checked_subfolder(subfolder)
    if not isinstance(source, (str, os.PathLike)):
        raise BadInput(f"{shown(source)} is no cost: expected a folder, or owner/name on the hub")
    here = os.path.lexists(source)
    if not isinstance(source, str) or here or not _HUB_NAME.fullmatch(source):
        local = Path(source)
        if isinstance(source, str) and not here:
            raise BadInput(
                f"{source} holds no saved cost: it is no folder here, and no name on the hub, "
                "which is owner/name"
            )
        if revision is not None:
            raise BadInput(f"revision={shown(revision)}: {local} is a folder, which has no revisions")
        yield local / inside
        return
    folder = _downloaded(source, inside, revision, options)
    try:
        yield folder
    except BadInput as error:
        raise BadInput(f"{source} of the hub: {error}") from error


def upload(
    folder: Path,
    repo_id: str,
    *,
    subfolder: str | None,
    commit_message: str,
    private: bool | None,
    token: str | bool | None,
    branch: str | None,
    create_pr: bool | None,
) -> str:
    """Put a saved cost and its card into a repository, which is made if need be, as one commit.

    What is there is replaced if it is a running cost, and the card if nobody has edited it.

    Returns:
        The commit's address; of the pull request where one was asked for.

    Raises:
        BadInput: for a name that is none, files of something else in the way, and all that goes wrong
            with the hub.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    inside = _checked_subfolder(subfolder)
    if not isinstance(repo_id, str) or not _HUB_NAME.fullmatch(repo_id):
        raise BadInput(f"repo_id={shown(repo_id)}: expected owner/name, a name on the hub")
    with _asking(f"{repo_id} cannot be written on the hub", branch):
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        if branch is not None and not create_pr:
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        names = [CONFIG_FILE, WEIGHTS_FILE]
        if _may_write_card(api, repo_id, inside, branch):
            names.append(CARD_FILE)
        files = [CommitOperationAdd(str(inside / name), str(folder / name)) for name in names]
        commit = api.create_commit(
            repo_id, files, commit_message=commit_message, revision=branch, create_pr=create_pr
        )
    return str(commit.pr_url or commit.commit_url)


def _checked_subfolder(subfolder: str | None) -> PurePosixPath:
    """It as a path.

    Raises:
        BadInput: if it is none, or leads out of the folder.
    """
    if subfolder is not None and not isinstance(subfolder, str):
        raise BadInput(f"subfolder={shown(subfolder)}: expected a text")
    inside = PurePosixPath(subfolder or "")
    if inside.is_absolute() or ".." in inside.parts or "\\" in str(inside):
        raise BadInput(f"subfolder={shown(subfolder)}: expected a folder inside, such as 'running_cost'")
    return inside


def _downloaded(
    repo_id: str, inside: PurePosixPath, revision: str | None, options: dict[str, Any]
) -> Path:
    """The config first: of what is no running cost nothing more is downloaded."""
    from huggingface_hub import hf_hub_download

    with _asking(f"{repo_id} is no folder here, and cannot be had from the hub", revision):
        config = Path(hf_hub_download(repo_id, str(inside / CONFIG_FILE), revision=revision, **options))
        _check_config(repo_id, config)
        # The weights of the same commit, whatever is pushed in between.
        commit = config.parents[len(inside.parts)].name
        hf_hub_download(repo_id, str(inside / WEIGHTS_FILE), revision=commit, **options)
    return config.parent


def _check_config(repo_id: str, config: Path) -> None:
    try:
        read_config(config.parent)
    except BadInput as error:
        raise BadInput(f"{repo_id} of the hub holds no running cost: {error}") from error


def _may_write_card(api: Any, repo_id: str, inside: PurePosixPath, branch: str | None) -> bool:
    """Whether the card may be written; also refuses to replace what is no running cost."""
    from huggingface_hub.errors import EntryNotFoundError

    with tempfile.TemporaryDirectory() as cache:

        def text(name: str) -> Path | None:
            try:
                path = api.hf_hub_download(repo_id, str(inside / name), revision=branch, cache_dir=cache)
            except EntryNotFoundError:
                return None
            return Path(path)

        if (config := text(CONFIG_FILE)) is not None:
            try:
                read_config(config.parent)
            except BadInput as error:
                raise _in_the_way(repo_id, inside / CONFIG_FILE) from error
        elif api.file_exists(repo_id, str(inside / WEIGHTS_FILE), revision=branch):
            raise _in_the_way(repo_id, inside / WEIGHTS_FILE)
        card = text(CARD_FILE)
        return card is None or is_as_written(card.read_text(encoding="utf-8", errors="replace"))


def _in_the_way(repo_id: str, file: PurePosixPath) -> BadInput:
    return BadInput(
        f"{repo_id} on the hub has a {file} that is no running cost's, and it is not replaced: give "
        "another name, or a subfolder"
    )


@contextmanager
def _asking(what: str, revision: str | None) -> Iterator[None]:
    """Whatever the hub answers, or the way to it, becomes one line."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        reason = _reason(error, revision)
        if reason is None:
            raise
        raise BadInput(f"{what}: {reason}") from error


def _reason(error: Exception, revision: str | None) -> str | None:
    """What went wrong, and what to do; None for what is no matter of the hub."""
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return f"it is gated: ask for access on its page, then {_LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"there is none of this name, or it is private: check the name, {_LOG_IN} that may read it"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"it has no revision {revision!r}: give one of its branches, tags or commits"
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        return (
            "there is no connection (or HF_HUB_OFFLINE or local_files_only is set), and it is not among "
            "what was downloaded: go online, or give a folder"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return (
            f"it holds no running cost, {CONFIG_FILE} and {WEIGHTS_FILE}, at this place: look at its "
            "files, and give the cost's subfolder= if it has one"
        )
    if isinstance(error, errors.LocalTokenNotFoundError):
        return f"nothing is done without a token: {_LOG_IN}"
    if status in (401, 403):
        return f"this token, or none, may not do that ({status}): {_LOG_IN} that may"
    known = (errors.HfHubHTTPError, OSError, ValueError)
    if isinstance(error, known) or type(error).__module__.startswith("httpx"):
        return f"{type(error).__name__}: {error}"
    return None
