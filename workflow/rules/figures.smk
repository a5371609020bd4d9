# What a person looks at.


rule figure:
    input:
        runs=f"{RESULTS}/runs.csv",
        law=f"{RESULTS}/law/law.json",
    output:
        report(f"{RESULTS}/figures/{{figure}}.svg", caption="../report/{figure}.rst", category="Figures"),
        f"{RESULTS}/figures/{{figure}}.png",
    params:
        law=subpath(input.law, parent=True),
        stem=subpath(output[0], strip_suffix=".svg"),
    log:
        f"{RESULTS}/logs/figure/{{figure}}.log",
    shell:
        "sparsedc figure {wildcards.figure} --runs {input.runs} --law {params.law} --out {params.stem} 2> {log}"


rule summary:
    input:
        runs=f"{RESULTS}/runs.csv",
        law=f"{RESULTS}/law/law.json",
    output:
        report(f"{RESULTS}/summary.html", caption="../report/summary.rst", category="Summary"),
    params:
        law=subpath(input.law, parent=True),
    log:
        f"{RESULTS}/logs/summary.log",
    shell:
        "sparsedc summary --runs {input.runs} --law {params.law} --out {output} 2> {log}"
