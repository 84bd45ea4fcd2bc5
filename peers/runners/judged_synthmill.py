"""Ours: pools of two answers, each judged under a rubric from 1 to 5; it runs in our own environment."""

from job import MODEL, read_job

from synthmill import Session
from synthmill import stages as s
from synthmill.tasks.scorers.direct import HELPFUL

if __name__ == "__main__":
    job = read_job()
    engine = {"spec": f"openai:{MODEL}@{job.url}", "concurrency": job.width}
    with Session(str(job.work / "store"), engines={"teacher": engine}) as session:
        prompts = session.read(str(job.input), kind="prompts")
        pools = session.make(prompts, s.PoolAnswers(policies=("teacher",), count=2))
        judged = session.make(pools, s.DirectScores(rubric=HELPFUL, evaluations=1))
        for row in (rows := judged.frame().to_dicts()):
            [score] = row["scores"]
            best = max(range(len(score["values"])), key=score["values"].__getitem__)
            row["text"] = row["answers"][best]["text"]
        job.write((row["id"], row["text"]) for row in rows)
