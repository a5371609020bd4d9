# Text to tokens to budgets. Everything lies under the hash of the corpus and tokenizer settings, so that tokens of
# other settings are other files.


localrules:
    study,


# The study as validated, all defaults filled in: what every later command reads, so that an edit of the study file
# while jobs wait in a queue reaches none of them.
rule study:
    output:
        f"{RESULTS}/study.json",
    log:
        f"{RESULTS}/logs/study.log",
    params:
        study=canonical_json(STUDY.config.model_dump(mode="json")),
    shell:
        "printf '%s\\n' {params.study:q} > {output} 2> >(tee {log} >&2)"


rule documents:
    input:
        study=ancient(f"{RESULTS}/study.json"),
        text=watched_files(STUDY.config.corpus),
    output:
        index=f"{CORPUS}/documents/documents.json",
        train=f"{CORPUS}/documents/train.parquet",
        validation=f"{CORPUS}/documents/validation.parquet",
    log:
        f"{CORPUS}/documents.log",
    params:
        corpus=canonical_json(STUDY.config.corpus.model_dump(mode="json")),
        versions=watched_versions(STUDY.config.corpus),
        folder=subpath(output.index, parent=True),
    shell:
        "sparsedc corpus documents {input.study} --out {params.folder} 2> >(tee {log} >&2)"


rule tokenizer:
    input:
        study=ancient(f"{RESULTS}/study.json"),
        documents=rules.documents.output.index,
        train=rules.documents.output.train,
    output:
        f"{CORPUS}/tokenizer/tokenizer.json",
    log:
        f"{CORPUS}/tokenizer.log",
    threads: workflow.cores
    params:
        tokenizer=canonical_json(STUDY.config.tokenizer.model_dump(mode="json")),
        documents=subpath(input.documents, parent=True),
        folder=subpath(output[0], parent=True),
    shell:
        "sparsedc corpus tokenizer {input.study} --documents {params.documents} --out {params.folder} 2> >(tee {log} >&2)"


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


# A budget that the corpus cannot fill is found here, before any training.
rule budgets:
    input:
        study=ancient(f"{RESULTS}/study.json"),
        manifest=rules.tokens.output.manifest,
        train=rules.tokens.output.train,
    output:
        f"{CORPUS}/budgets.tsv",
    log:
        f"{CORPUS}/budgets.log",
    params:
        budgets=STUDY.budgets,
        tokens=subpath(input.manifest, parent=True),
    shell:
        "sparsedc corpus budgets {input.study} --tokens {params.tokens} --out {output} 2> >(tee {log} >&2)"
