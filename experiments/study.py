"""What do finished runs show? Runs the studies of inversion/studies/, by default all but `samples`, and writes one page."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from inversion.core.errors import InputError
from inversion.core.files import write_atomic
from inversion.launch import command_line

log = logging.getLogger(__name__)


def study(cfg: DictConfig, folder: Path) -> None:
    """Writes each study's result to a folder of its name, and `report.html`, which grows with each, beside them."""
    from inversion.studies.result import PAGE, question_and_method, section
    from inversion.studies.subject import Subject
    from inversion.training.building import build

    chosen = {name: options for name, options in (cfg.get("study") or {}).items() if options is not None}
    if not chosen:
        raise InputError("No study is left: choose one, as in study=frequency, or leave study out for all.")
    subject = Subject(cfg.runs, cfg.part, cfg.images, cfg.weights, cfg.device)
    sections, failures = [], []
    for name, options in chosen.items():
        function = build(f"study/{name}", options)
        log.info(f"Study    {name}: {question_and_method(function)[0]}")
        try:
            result = function(subject, folder / name)
            result.save(folder / name)
        except Exception as error:  # a study, perhaps the reader's own, can raise anything, and must not cost the others
            result = error
            failures.append(f"{name}: {str(error).rstrip('.')}")
            if not isinstance(error, InputError | OSError):
                log.exception(f"{name} failed")
        sections.append(section(name, function, result))
        write_atomic(folder / "report.html", PAGE.format("\n".join(sections)).encode())
    log.info(f"Page     {folder / 'report.html'}")
    if failures:
        raise InputError(f"{len(failures)} of {len(sections)} studies failed ({'; '.join(failures)}).")


if __name__ == "__main__":
    command_line.run(study, "study")
