# A metrics.json is whole wherever it stands. If Snakemake was killed before it had noted that the job is done, it would
# train the cell again, had the mark of an unfinished job stayed.
def budget_of(wildcards):
    metrics = f"{RESULTS}/cells/{wildcards.cell}/metrics.json"
    if os.path.exists(metrics):
        workflow.persistence._unmark_incomplete(metrics)
    return f"{CORPUS}/budgets/{STUDY.cell(wildcards.cell).spec.unique_tokens}.json"
