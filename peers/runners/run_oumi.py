"""oumi: `RemoteInferenceEngine.infer_partial`, its adaptive concurrency off, its scratch file beside the output."""

from job import KEY, MAX_TOKENS, MODEL, read_job
from oumi.core.configs import GenerationParams, InferenceConfig, ModelParams, RemoteParams
from oumi.core.types.conversation import Conversation, Message, Role
from oumi.inference import RemoteInferenceEngine

if __name__ == "__main__":
    job = read_job()
    generation = GenerationParams(max_new_tokens=MAX_TOKENS)
    remote = RemoteParams(
        api_url=f"{job.url}/chat/completions",
        api_key=KEY,
        num_workers=job.width,
        use_adaptive_concurrency=False,
    )
    engine = RemoteInferenceEngine(ModelParams(model_name=MODEL), generation_params=generation, remote_params=remote)
    conversations = [
        Conversation(conversation_id=row["id"], messages=[Message(role=Role.USER, content=row["prompt"])])
        for row in job.rows()
    ]
    config = InferenceConfig(output_path=str(job.work / "output.jsonl"), generation=generation)
    result = engine.infer_partial(conversations, config)
    job.write((answer.conversation_id, answer.messages[-1].content) for _, answer in result.successful)
