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
        "printf '%s\\n' {params.study:q} > {output}" + LOGGED


rule documents:
    input:
        study=ancient(f"{RESULTS}/study.json"),
        text=watched_files(STUDY.config.corpus),
    output:
        f"{CORPUS}/documents/documents.json",
        f"{CORPUS}/documents/train.parquet",
        f"{CORPUS}/documents/validation.parquet",
    log:
        f"{CORPUS}/documents.log",
    params:
        corpus=canonical_json(STUDY.config.corpus.model_dump(mode="json")),
        versions=watched_versions(STUDY.config.corpus),
        folder=f"{CORPUS}/documents",
    shell:
        "sparsedc corpus documents {input.study} --out {params.folder}" + LOGGED


rule tokenizer:
    input:
        study=ancient(f"{RESULTS}/study.json"),
        documents=rules.documents.output,
    output:
        f"{CORPUS}/tokenizer/tokenizer.json",
    log:
        f"{CORPUS}/tokenizer.log",
    threads: workflow.cores
    params:
        tokenizer=canonical_json(STUDY.config.tokenizer.model_dump(mode="json")),
        documents=f"{CORPUS}/documents",
        folder=f"{CORPUS}/tokenizer",
    shell:
        "sparsedc corpus tokenizer {input.study} --documents {params.documents} --out {params.folder}" + LOGGED


rule tokens:
    input:
        documents=rules.documents.output,
        tokenizer=rules.tokenizer.output,
    output:
        f"{CORPUS}/tokens/manifest.json",
        f"{CORPUS}/tokens/train.bin",
        f"{CORPUS}/tokens/{STUDY.config.evaluation_split}.bin",
    log:
        f"{CORPUS}/tokens.log",
    threads: workflow.cores
    params:
        documents=f"{CORPUS}/documents",
        tokenizer=f"{CORPUS}/tokenizer",
        folder=f"{CORPUS}/tokens",
    shell:
        "sparsedc corpus tokens --documents {params.documents} --tokenizer {params.tokenizer}"
        " --out {params.folder}" + LOGGED


rule budgets:
    input:
        study=ancient(f"{RESULTS}/study.json"),
        tokens=rules.tokens.output,
    output:
        f"{CORPUS}/budgets.tsv",
    log:
        f"{CORPUS}/budgets.log",
    params:
        budgets=STUDY.budgets,
        tokens=f"{CORPUS}/tokens",
    shell:
        "sparsedc corpus budgets {input.study} --tokens {params.tokens} --out {output}" + LOGGED
