# The law, from runs.csv alone.


rule law:
    input:
        f"{RESULTS}/runs.csv",
    output:
        law=report(f"{RESULTS}/law/law.json", caption="../report/law.rst", category="Tables"),
        comparison=report(f"{RESULTS}/law/comparison.csv", caption="../report/comparison.rst", category="Tables"),
        predictions=f"{RESULTS}/law/predictions.csv",
    log:
        f"{RESULTS}/logs/law.log",
    threads: workflow.cores
    params:
        folder=subpath(output.law, parent=True),
        forms=" ".join(f"--form {form}" for form in STUDY.config.law.forms),
        params=STUDY.config.law.params,
        delta=STUDY.config.law.huber_delta,
    shell:
        "sparsedc law fit {input} --out {params.folder} {params.forms} --params {params.params}"
        " --delta {params.delta} 2> >(tee {log} >&2)"
