"""oumi: `synthesize` with a multi-turn attribute; it plans each dialogue first, and writes the user's opening, too."""

from job import KEY, MAX_TOKENS, MODEL, OPENING, TURNS, read_job
from oumi.core.configs import GenerationParams, InferenceConfig, InferenceEngineType, ModelParams, RemoteParams
from oumi.core.configs.params.synthesis_params import DatasetSource, GeneralSynthesisParams, MultiTurnAttribute
from oumi.core.configs.synthesis_config import SynthesisConfig
from oumi.core.types.conversation import Role
from oumi.synth import synthesize

if __name__ == "__main__":
    job = read_job()
    roles = {Role.USER: f"{OPENING} {{prompt}}", Role.ASSISTANT: "You answer. {prompt}"}
    dialogue = MultiTurnAttribute(id="dialogue", min_turns=TURNS, max_turns=TURNS, role_instruction_messages=roles)
    remote = RemoteParams(
        api_url=f"{job.url}/chat/completions", api_key=KEY, num_workers=job.width, use_adaptive_concurrency=False
    )
    config = SynthesisConfig(
        strategy_params=GeneralSynthesisParams(
            input_data=[DatasetSource(path=str(job.input))], multiturn_attributes=[dialogue]
        ),
        inference_config=InferenceConfig(
            model=ModelParams(model_name=MODEL),
            engine=InferenceEngineType.REMOTE,
            generation=GenerationParams(max_new_tokens=MAX_TOKENS),
            remote_params=remote,
        ),
        num_samples=len(job.rows()),
    )
    rows = synthesize(config)
    job.write((row["id"], row["dialogue"]["messages"][-1]["content"]) for row in rows)
