# What a person looks at. Drawn where Snakemake runs: a job would wait longer than it works.


localrules:
    summary,


if not PUBLISHED:  # of published constants there are no cells to compare

    localrules:
        contrasts,

    rule contrasts:
        input:
            f"{RESULTS}/runs.csv",
        output:
            contrasts=report(f"{RESULTS}/contrasts.csv", caption="../report/contrast_table.rst", category="Tables"),
            optima=report(f"{RESULTS}/optima.csv", caption="../report/optima.rst", category="Tables"),
        log:
            f"{RESULTS}/logs/contrasts.log",
        params:
            table=TABLE,
        shell:
            "sparsedc runs contrast {input} --out {output.contrasts} 2> >(tee {log} >&2) | tee -a {log}"


for FIGURE in [name for name in DRAWN if name not in OBSERVED]:  # a rule each: a caption depends on no wildcard

    rule:
        name:
            f"figure_{FIGURE}"
        input:
            runs=f"{RESULTS}/runs.csv",
            law=f"{RESULTS}/law/law.json",
            selection=f"{RESULTS}/law/selection.json",
        output:
            report(
                f"{RESULTS}/figures/{FIGURE}.svg",
                caption=f"../report/{FIGURE}.rst",
                category="Figures",
                labels={"figure": FIGURES[FIGURE]},
            ),
            f"{RESULTS}/figures/{FIGURE}.png",
        log:
            f"{RESULTS}/logs/figure/{FIGURE}.log",
        localrule: True
        params:
            table=TABLE,
            figure=FIGURE,
            law=subpath(input.law, parent=True),
            stem=subpath(output[0], strip_suffix=".svg"),
            budgets=" ".join(f"--unique-tokens {budget}" for budget in STUDY.config.figures.unique_tokens),
        shell:
            "sparsedc figure {params.figure} --runs {input.runs} --law {params.law} {params.budgets}"
            " --out {params.stem} 2> >(tee {log} >&2)"


for FIGURE in [name for name in DRAWN if name in OBSERVED]:  # these ask no law, so that none need be fitted

    rule:
        name:
            f"figure_{FIGURE}"
        input:
            runs=f"{RESULTS}/runs.csv",
            table=f"{RESULTS}/{FIGURE}.csv",
        output:
            report(
                f"{RESULTS}/figures/{FIGURE}.svg",
                caption=f"../report/{FIGURE}.rst",
                category="Figures",
                labels={"figure": FIGURES[FIGURE]},
            ),
            f"{RESULTS}/figures/{FIGURE}.png",
        log:
            f"{RESULTS}/logs/figure/{FIGURE}.log",
        localrule: True
        params:
            table=TABLE,
            figure=FIGURE,
            stem=subpath(output[0], strip_suffix=".svg"),
        shell:
            "sparsedc figure {params.figure} --runs {input.runs} --out {params.stem} 2> >(tee {log} >&2)"


rule summary:
    input:
        runs=f"{RESULTS}/runs.csv",
        law=f"{RESULTS}/law/selection.json",
    output:
        report(
            f"{RESULTS}/summary.html",
            caption="../report/summary.rst",
            category="Summary",
            labels={"figure": "The study in one table"},
        ),
    log:
        f"{RESULTS}/logs/summary.log",
    params:
        table=TABLE,
        law=subpath(input.law, parent=True),
    shell:
        "sparsedc summary --runs {input.runs} --law {params.law} --out {output} 2> >(tee {log} >&2)"
