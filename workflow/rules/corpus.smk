# Text to tokens to budgets. Everything lies under the hash of the corpus and tokenizer settings, so that tokens of
# other settings are other files.


localrules:
    study,


# The study as validated, all defaults filled in: what every later command reads, so that an edit of the study file
# while jobs wait in a queue reaches none of them.
rule study:
    output:
        f"{RESULTS}/study.json",
    params:
        study=canonical_json(STUDY.config.model_dump(mode="json")),
    log:
        f"{RESULTS}/logs/study.log",
    shell:
        "printf '%s\\n' {params.study:q} > {output} 2> {log}"


rule documents:
    input:
        study=ancient(f"{RESULTS}/study.json"),
        text=watched_files(STUDY.config.corpus),
    output:
        f"{CORPUS}/documents/documents.json",
    params:
        corpus=canonical_json(STUDY.config.corpus.model_dump(mode="json")),
        versions=watched_versions(STUDY.config.corpus),
        folder=subpath(output[0], parent=True),
    log:
        f"{CORPUS}/documents.log",
    shell:
        "sparsedc corpus documents {input.study} --out {params.folder} 2> {log}"


rule tokenizer:
    input:
        study=ancient(f"{RESULTS}/study.json"),
        documents=rules.documents.output[0],
    output:
        f"{CORPUS}/tokenizer/tokenizer.json",
    params:
        tokenizer=canonical_json(STUDY.config.tokenizer.model_dump(mode="json")),
        documents=subpath(input.documents, parent=True),
        folder=subpath(output[0], parent=True),
    log:
        f"{CORPUS}/tokenizer.log",
    threads: workflow.cores
    shell:
        "sparsedc corpus tokenizer {input.study} --documents {params.documents} --out {params.folder} 2> {log}"


rule tokens:
    input:
        documents=rules.documents.output[0],
        tokenizer=rules.tokenizer.output[0],
    output:
        f"{CORPUS}/tokens/manifest.json",
    params:
        documents=subpath(input.documents, parent=True),
        tokenizer=subpath(input.tokenizer, parent=True),
        folder=subpath(output[0], parent=True),
    log:
        f"{CORPUS}/tokens.log",
    threads: workflow.cores
    shell:
        "sparsedc corpus tokens --documents {params.documents} --tokenizer {params.tokenizer}"
        " --out {params.folder} 2> {log}"


rule budgets:
    input:
        study=ancient(f"{RESULTS}/study.json"),
        tokens=rules.tokens.output[0],
    output:
        f"{CORPUS}/budgets.tsv",
    params:
        budgets=STUDY.budgets,
        tokens=subpath(input.tokens, parent=True),
    log:
        f"{CORPUS}/budgets.log",
    shell:
        "sparsedc corpus budgets {input.study} --tokens {params.tokens} --out {output} 2> {log}"
