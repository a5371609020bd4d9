# Cells: one spec, one training, one row of runs.csv.


localrules:
    spec,
    index,
    runs,


rule spec:
    output:
        f"{RESULTS}/specs/{{cell}}.json",
    log:
        f"{RESULTS}/logs/spec/{{cell}}.log",
    priority: lambda wildcards: FIRST + RANK[wildcards.cell]
    params:
        spec=lambda wildcards: canonical_json(STUDY.cell(wildcards.cell).spec.content()),
    shell:
        "printf '%s\\n' {params.spec:q} > {output} 2> >(tee {log} >&2)"


# Where an edited study file leaves jobs in a queue, they find no such cell and fail; the spec, which the trainer
# checks against the hash in its name, says what is trained. Checkpoints lie in {RESULTS}/work/<hash>, which is no
# output, because Snakemake deletes those before it starts a job again. A signal to stop reaches every process of a job:
# shell and `tee` are to live on, for as long as the trainer writes a checkpoint, and to hear what it says of it.
rule train:
    input:
        spec=f"{RESULTS}/specs/{{cell}}.json",
        manifest=rules.tokens.output.manifest,  # holds the checksums of the tokens, which are too large to compare
        tokens=ancient([rules.tokens.output.train, rules.tokens.output.held_out]),
        budget=lambda wildcards: f"{CORPUS}/budgets/{STUDY.cell(wildcards.cell).spec.unique_tokens}.json",
    output:
        f"{RESULTS}/cells/{{cell}}/metrics.json",
    log:
        f"{RESULTS}/logs/train/{{cell}}.log",
    priority: lambda wildcards: RANK[wildcards.cell]
    group:
        packed
    threads: lambda wildcards: STUDY.gpus(wildcards.cell)[1]
    resources:
        runtime=runtime,
        mem_mb=memory,
        ranks=lambda wildcards: STUDY.gpus(wildcards.cell)[1],
        on_nodes=lambda wildcards: STUDY.gpus(wildcards.cell)[0],
        gpu_mb=lambda wildcards: device_megabytes(STUDY.cell(wildcards.cell).spec),
        gres=lambda wildcards: f"gpu:{STUDY.gpus(wildcards.cell)[1]}",  # of a node; a job's numbers would be added up
        nodes=nodes,
    params:
        attempts=f"{RESULTS}/logs/attempts/{{cell}}.log",  # Snakemake deletes a `log` when it begins a job again
    shell:
        "trap : TERM; mkdir -p $(dirname {params.attempts}) && date '+== %F %T %z' >> {params.attempts};"
        " sparsedc train {input.spec} {output} --threads {threads} --ranks {resources.ranks}"
        " --nodes {resources.on_nodes} --gpu-mb {resources.gpu_mb}"
        " 2> >(trap '' INT TERM; tee -a {params.attempts} | tee {log} >&2)"


# Of some cells the model is kept, too. Snakemake compares a finished cell with this rule or with the one above, whichever
# is now the cell's: both say the same of its metrics, so that only a model that is missing trains it again.
if KEPT:

    use rule train as train_kept with:
        output:
            f"{RESULTS}/cells/{{cell}}/metrics.json",
            directory(f"{RESULTS}/models/{{cell}}"),
        wildcard_constraints:
            cell="|".join(re.escape(cell) for cell in KEPT),

    ruleorder: train_kept > train


rule index:
    input:
        f"{RESULTS}/study.json",
    output:
        f"{RESULTS}/cells.tsv",
    log:
        f"{RESULTS}/logs/index.log",
    priority: FIRST
    shell:
        "sparsedc study index {input} {output} 2> >(tee {log} >&2)"


rule runs:
    input:
        cells=f"{RESULTS}/cells.tsv",
        metrics=expand(f"{RESULTS}/cells/{{cell}}/metrics.json", cell=STUDY.cells),
    output:
        runs=report(f"{RESULTS}/runs.csv", caption="../report/runs.rst", category="Tables"),
        topology=f"{RESULTS}/topology.csv",
        stability=f"{RESULTS}/stability.csv",
    log:
        f"{RESULTS}/logs/runs.log",
    shell:
        "sparsedc runs collect {input.cells} {output.runs} 2> >(tee {log} >&2)"
