# Cells: one spec, one training, one row of runs.csv.


localrules:
    spec,
    index,
    runs,


RANK = {cell: rank for rank, cell in enumerate(reversed(STUDY.cells))}


rule spec:
    output:
        f"{RESULTS}/specs/{{cell}}.json",
    log:
        f"{RESULTS}/logs/spec/{{cell}}.log",
    params:
        spec=lambda wildcards: canonical_json(STUDY.cell(wildcards.cell).spec.content()),
    shell:
        "printf '%s\\n' {params.spec:q} > {output} 2> >(tee {log} >&2)"


# Where an edited study file leaves jobs in a queue, they find no such cell and fail; the spec, which the trainer
# checks against the hash in its name, says what is trained. Checkpoints lie in {RESULTS}/work/<hash>, which is no
# output, because Snakemake deletes those before it starts a job again. A signal to stop reaches every process of a job:
# `tee` is to live on, and hear what the trainer says of it.
rule train:
    input:
        spec=f"{RESULTS}/specs/{{cell}}.json",
        manifest=rules.tokens.output.manifest,  # holds the checksums of the tokens, which are too large to compare
        tokens=ancient([rules.tokens.output.train, rules.tokens.output.held_out]),
        budget=budget_of,
    output:
        f"{RESULTS}/cells/{{cell}}/metrics.json",
    log:
        f"{RESULTS}/logs/train/{{cell}}.log",
    priority: lambda wildcards: RANK[wildcards.cell]
    resources:
        runtime=lambda wildcards, attempt: attempt
        * minutes(STUDY.cell(wildcards.cell).spec, STUDY.config.sustained_tflops),
        mem_mb=lambda wildcards, attempt: attempt * host_megabytes(STUDY.cell(wildcards.cell).spec),
    params:
        folder=subpath(output[0], parent=True),
        attempts=f"{RESULTS}/logs/attempts/{{cell}}.log",  # Snakemake deletes a `log` when it begins a job again
    shell:
        "mkdir -p $(dirname {params.attempts}) && date '+== %F %T %z' >> {params.attempts};"
        " sparsedc train {input.spec} --out {params.folder} --threads {threads}"
        " 2> >(trap '' INT TERM; tee -a {params.attempts} | tee {log} >&2)"


rule index:
    input:
        f"{RESULTS}/study.json",
    output:
        f"{RESULTS}/cells.tsv",
    log:
        f"{RESULTS}/logs/index.log",
    priority: len(RANK)
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
