# Text to tokens to budgets. Everything lies under the hash of the corpus and tokenizer settings, so that tokens of
# other settings are other files.
#
# Snakemake spares a job all its checks in a run in which something before it is made anew, and then lets it rest if
# only an `ancient` input was. So nothing here depends on the whole study, which every edit makes anew.


CORPUS = f"{RESULTS}/corpus/{STUDY.data}"


localrules:
    study,
    data,
    budget,


# The study as validated: what the commands after training read, so that an edit of the study file while jobs wait in a
# queue does not reach them. Defaults stay unwritten, because a method may bring others; and whose models are kept, which
# is nothing to those commands.
rule study:
    output:
        f"{RESULTS}/study.json",
    log:
        f"{RESULTS}/logs/study.log",
    params:
        study=canonical_json(STUDY.config.model_dump(mode="json", exclude_unset=True, exclude={"keep_models"})),
    shell:
        "printf '%s\\n' {params.study:q} > {output} 2> >(tee {log} >&2)"


# The part of it that tokens depend on.
rule data:
    output:
        f"{CORPUS}/data.json",
    log:
        f"{CORPUS}/data.log",
    params:
        data=canonical_json(STUDY.config.model_dump(mode="json", include={"corpus", "tokenizer"})),
    shell:
        "printf '%s\\n' {params.data:q} > {output} 2> >(tee {log} >&2)"


rule documents:
    input:
        data=f"{CORPUS}/data.json",
        text=TEXT,
    output:
        index=f"{CORPUS}/documents/documents.json",
        train=f"{CORPUS}/documents/train.parquet",
        validation=f"{CORPUS}/documents/validation.parquet",
    log:
        f"{CORPUS}/documents.log",
    params:
        versions=VERSIONS,
        folder=subpath(output.index, parent=True),
    shell:
        "sparsedc corpus documents {input.data} --out {params.folder} 2> >(tee {log} >&2)"


rule tokenizer:
    input:
        data=f"{CORPUS}/data.json",
        documents=rules.documents.output.index,
        train=rules.documents.output.train,
    output:
        f"{CORPUS}/tokenizer/tokenizer.json",
    log:
        f"{CORPUS}/tokenizer.log",
    threads: workflow.cores
    params:
        documents=subpath(input.documents, parent=True),
        folder=subpath(output[0], parent=True),
    shell:
        "sparsedc corpus tokenizer {input.data} --documents {params.documents} --out {params.folder}"
        " 2> >(tee {log} >&2)"


rule tokens:
    input:
        documents=rules.documents.output.index,
        text=[rules.documents.output.train, rules.documents.output.validation],
        tokenizer=rules.tokenizer.output[0],
    output:
        manifest=f"{CORPUS}/tokens/manifest.json",
        train=f"{CORPUS}/tokens/train.bin",
        held_out=f"{CORPUS}/tokens/{STUDY.config.evaluation_split}.bin",
    log:
        f"{CORPUS}/tokens.log",
    threads: workflow.cores
    params:
        documents=subpath(input.documents, parent=True),
        tokenizer=subpath(input.tokenizer, parent=True),
        folder=subpath(output.manifest, parent=True),
    shell:
        "sparsedc corpus tokens --documents {params.documents} --tokenizer {params.tokenizer}"
        " --out {params.folder} 2> >(tee {log} >&2)"


# A budget that the corpus cannot fill is found here, before any of its cells trains.
rule budget:
    input:
        manifest=rules.tokens.output.manifest,
        train=rules.tokens.output.train,
    output:
        f"{CORPUS}/budgets/{{unique_tokens}}.json",
    log:
        f"{CORPUS}/budgets/{{unique_tokens}}.log",
    priority: FIRST
    threads: workflow.cores  # so that no cell of the first budget begins beside the second
    params:
        tokens=subpath(input.manifest, parent=True),
    shell:
        "sparsedc corpus budget --tokens {params.tokens} --unique-tokens {wildcards.unique_tokens}"
        " --out {output} 2> >(tee {log} >&2)"
