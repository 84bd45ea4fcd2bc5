"""Data Designer: a seed dataset of the prompts and one LLMTextColumn, resumed where that is possible."""

import data_designer.config as dd
import pandas as pd
from data_designer.config.run_config import JinjaRenderingEngine, ResumeMode, RunConfig
from data_designer.interface import DataDesigner
from job import KEY, MAX_TOKENS, MODEL, read_job

ROW_GROUP = 200
"""Records that are kept together: what a resumed run need not ask again."""

if __name__ == "__main__":
    job = read_job()
    rows = job.rows()
    parameters = dd.ChatCompletionInferenceParams(max_tokens=MAX_TOKENS, max_parallel_requests=job.width)
    model = dd.ModelConfig(
        alias="m", model=MODEL, provider="local", inference_parameters=parameters, skip_health_check=True
    )
    provider = dd.ModelProvider(name="local", endpoint=job.url, provider_type="openai", api_key=KEY)
    designer = DataDesigner(artifact_path=job.work / "artifacts", model_providers=[provider])
    designer.set_run_config(
        RunConfig(
            buffer_size=ROW_GROUP,
            jinja_rendering_engine=JinjaRenderingEngine.NATIVE,
            otel_metrics_port=None,
        )
    )
    seed = job.work / "seed.parquet"
    pd.DataFrame(rows).to_parquet(seed)
    builder = dd.DataDesignerConfigBuilder(model_configs=[model])
    builder.with_seed_dataset(dd.LocalFileSeedSource(path=str(seed)))
    builder.add_column(dd.LLMTextColumnConfig(name="text", model_alias="m", prompt="{{ prompt }}"))
    result = designer.create(builder, num_records=len(rows), dataset_name="peers", resume=ResumeMode.IF_POSSIBLE)
    job.write((row["id"], row["text"]) for row in result.load_dataset().to_dict("records"))
