# What a cell's job asks of a machine or a cluster.


# Long cells first, so that none is left to run alone at the end. Snakemake chooses among jobs whose inputs exist: so what
# cells need is made for all of them before the first is trained (from priority FIRST on).
RANK = {cell: rank for rank, cell in enumerate(reversed(STUDY.cells))}
FIRST = len(RANK)

SMALL = "small"  # the group of cells that share a job on a cluster, where `group-components` says how many do


def devices(wildcards):
    nodes, each = STUDY.gpus(wildcards.cell)
    return nodes * each


def nodes(wildcards):
    """For Slurm; not said where there is one, as numbers of cells in one job are added up."""
    nodes, _ = STUDY.gpus(wildcards.cell)
    return nodes if nodes > 1 else None


def memory(wildcards, attempt):
    """Of each node."""
    _, each = STUDY.gpus(wildcards.cell)
    return attempt * host_megabytes(STUDY.cell(wildcards.cell).spec, each)


def packed(wildcards):
    spec = STUDY.cell(wildcards.cell).spec
    return SMALL if small(spec, STUDY.config.sustained_tflops, devices(wildcards)) else None


def runtime(wildcards, attempt):
    spec = STUDY.cell(wildcards.cell).spec
    beside = workflow.group_settings.group_components.get(SMALL, 1) if packed(wildcards) else 1
    return attempt * minutes(spec, STUDY.config.sustained_tflops, devices(wildcards), beside)
