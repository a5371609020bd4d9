# The law, from runs.csv alone; or as it was published, with the runs that its authors tested it on.


if PUBLISHED:

    rule law:
        output:
            runs=report(f"{RESULTS}/runs.csv", caption="../report/runs.rst", category="Tables"),
            law=report(f"{RESULTS}/law/law.json", caption="../report/law.rst", category="Tables"),
            selection=f"{RESULTS}/law/selection.json",
            comparison=f"{RESULTS}/law/comparison.csv",
            predictions=f"{RESULTS}/law/predictions.csv",
        log:
            f"{RESULTS}/logs/law.log",
        params:
            folder=subpath(output.law, parent=True),
        shell:
            "sparsedc law published --runs {output.runs} --out {params.folder} 2> >(tee {log} >&2) | tee -a {log}"

else:

    rule law:
        input:
            f"{RESULTS}/runs.csv",
        output:
            law=report(f"{RESULTS}/law/law.json", caption="../report/law.rst", category="Tables"),
            selection=f"{RESULTS}/law/selection.json",
            comparison=report(f"{RESULTS}/law/comparison.csv", caption="../report/comparison.rst", category="Tables"),
            predictions=f"{RESULTS}/law/predictions.csv",
        log:
            f"{RESULTS}/logs/law.log",
        threads: workflow.cores
        params:
            folder=subpath(output.law, parent=True),
            table=TABLE,
            forms=" ".join(f"--form {form}" for form in STUDY.config.law.forms),
            params=STUDY.config.law.params,
            delta=STUDY.config.law.huber_delta,
            bootstrap=STUDY.config.law.bootstrap,
        shell:
            "sparsedc law compare {input} --out {params.folder} {params.forms} --params {params.params}"
            " --delta {params.delta} --bootstrap {params.bootstrap} 2> >(tee {log} >&2) | tee -a {log}"
