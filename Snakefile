# From text to law: corpus -> tokens -> budgets -> cells -> runs.csv -> law -> figures.
#
#   snakemake --cores all                                   the default study, config.yaml
#   snakemake --cores all --configfile studies/x.yaml       another one
#   snakemake --cores all --configfile studies/x.yaml --config from_table=true
#                                                           from its runs.csv on: nothing is trained, no text needed
#
# A study of published constants has no cells: it begins with the law, from a table or not.
#
# Rules are thin: `sparsedc` commands do the work. Whatever a cell's numbers depend on stands in its spec, whose hash
# is part of the cell's path; so a changed hyperparameter trains that cell anew and no other. What a command says
# goes to its log and to the terminal, so that an error is seen where it happens.
import hashlib
import os
import re
import time

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.utils import min_version

from sparsedc import failures, slurm
from sparsedc.corpus.sources import watched_files, watched_versions
from sparsedc.demand import device_megabytes, host_megabytes, minutes, small
from sparsedc.errors import InputError
from sparsedc.figures import FIGURES, OBSERVED, drawn
from sparsedc.observations import COLUMNS as OBSERVATIONS
from sparsedc.spec import canonical_json
from sparsedc.study import load_study
from sparsedc.train.warm import RUN_VARIABLE

min_version("9.27")


# A study file stands alone: merged into another's keys it would be a third study.
if not workflow.overwrite_configfiles:

    configfile: "config.yaml"


FROM_TABLE = str(config.pop("from_table", False)).lower()  # said of a run, and so no key of a study
if FROM_TABLE not in ("true", "false"):
    raise WorkflowError(f"from_table = {FROM_TABLE}: must be true or false. Correct it.")

try:
    STUDY = load_study(config)
    PUBLISHED = STUDY.config.law.published
    FROM_TABLE = FROM_TABLE == "true" and not PUBLISHED  # which has its table from constants, as its law
    TEXT = [] if FROM_TABLE else watched_files(STUDY.config.corpus)
    VERSIONS = watched_versions(STUDY.config.corpus)
except InputError as error:
    raise WorkflowError(str(error)) from None

RESULTS = f"results/{STUDY.name}"
KEPT = [name for name, cell in STUDY.cells.items() if cell.keeps_model and not FROM_TABLE]
DRAWN = drawn(cell.spec for cell in STUDY.cells.values())
TABLE = None  # by its content, as one that was copied here may be older than what was made of another
if FROM_TABLE:
    DRAWN = [name for name in DRAWN if f"{name}.csv" not in OBSERVATIONS or os.path.exists(f"{RESULTS}/{name}.csv")]
    if os.path.exists(f"{RESULTS}/runs.csv"):
        with open(f"{RESULTS}/runs.csv", "rb") as runs:
            TABLE = hashlib.file_digest(runs, "sha256").hexdigest()

# Names this run, for the trainers that start warm in it (sparsedc.train.warm) and for their estimate of time left.
BEGAN = time.time()
os.environ[RUN_VARIABLE] = f"{os.getpid()} {BEGAN}"


slurm.keep_groups_whole()


# Before the first job is submitted, as Snakemake would wait for ever for news of jobs that this cluster cannot give.
onstart:
    if workflow.executor_plugin.name == "slurm":
        try:
            submitted = [job for job in workflow.dag.needrun_jobs() if not job.is_local]
            slurm.preflight(workflow.executor_settings, submitted, workflow.execution_settings.retries + 1)
        except InputError as error:
            raise WorkflowError(str(error)) from None


onerror:
    logger.error(failures.report(workflow, BEGAN))


report: "workflow/report/workflow.rst"


# Has no effect unless Snakemake is told to deploy software with apptainer; sparsedc then has to be in the image.
container: "docker://python:3.11-slim"


wildcard_constraints:
    cell=r"[A-Za-z0-9._-]+",
    unique_tokens=r"\d+",


if not PUBLISHED and not FROM_TABLE:

    include: "workflow/rules/common.smk"
    include: "workflow/rules/corpus.smk"
    include: "workflow/rules/train.smk"


include: "workflow/rules/law.smk"
include: "workflow/rules/figures.smk"


rule all:
    default_target: True
    input:
        # Each of them: a table that lacks some may have come from elsewhere, or from `sparsedc runs collect --so-far`.
        expand(f"{RESULTS}/cells/{{cell}}/metrics.json", cell=[] if FROM_TABLE else STUDY.cells),
        f"{RESULTS}/runs.csv",
        [] if PUBLISHED else f"{RESULTS}/contrasts.csv",
        f"{RESULTS}/law/law.json",
        f"{RESULTS}/summary.html",
        expand(f"{RESULTS}/figures/{{figure}}.{{suffix}}", figure=DRAWN, suffix=["svg", "png"]),
        expand(f"{RESULTS}/models/{{cell}}", cell=KEPT),
