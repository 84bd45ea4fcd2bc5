"""SDG Hub: a `Flow` of an asynchronous LLMChatBlock and an extractor, with checkpoints."""

import pandas as pd
from job import KEY, MAX_TOKENS, MODEL, read_job
from sdg_hub import Flow
from sdg_hub.core.blocks.llm import LLMChatBlock, LLMResponseExtractorBlock
from sdg_hub.core.flow.metadata import FlowMetadata

SAVE_EVERY = 250

if __name__ == "__main__":
    job = read_job()
    rows = [{"id": row["id"], "messages": [{"role": "user", "content": row["prompt"]}]} for row in job.rows()]
    chat = LLMChatBlock(
        block_name="chat", input_cols="messages", output_cols="answer", async_mode=True, max_tokens=MAX_TOKENS
    )
    content = LLMResponseExtractorBlock(block_name="content", input_cols="answer", extract_content=True)
    flow = Flow(blocks=[chat, content], metadata=FlowMetadata(name="peers", id="peers"))
    flow.set_model_config(model=f"openai/{MODEL}", api_base=job.url, api_key=KEY)
    answers = flow.generate(
        pd.DataFrame(rows),
        checkpoint_dir=str(job.work / "checkpoints"),
        save_freq=SAVE_EVERY,
        max_concurrency=job.width,
    )
    column = next(name for name in answers.columns if name.endswith("content"))
    job.write((row["id"], row[column]) for row in answers.to_dict("records"))
