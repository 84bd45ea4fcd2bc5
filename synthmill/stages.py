"""Every stage by its class's name: `from synthmill import stages as s; s.PoolAnswers(count=8)`.

Nothing registers a stage: the modules of tasks and flows/methods are listed, and one is imported when it is asked for.
The list below is for type checkers and editors; a test holds it to what is there (SYNTHMILL_LOCK=1 writes it).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synthmill.flows.methods.astral import SafetyQuestions as SafetyQuestions
    from synthmill.flows.methods.documents.passage_questions import GroundedConversations as GroundedConversations
    from synthmill.flows.methods.documents.passage_questions import QuestionKinds as QuestionKinds
    from synthmill.flows.methods.evol_instruct import Evolve as Evolve
    from synthmill.flows.methods.evol_instruct import Generations as Generations
    from synthmill.flows.methods.instructir import InstructedQueries as InstructedQueries
    from synthmill.flows.methods.instructir import SearchChecks as SearchChecks
    from synthmill.flows.methods.instructir import SearchScenarios as SearchScenarios
    from synthmill.flows.methods.magpie import OpenTurns as OpenTurns
    from synthmill.flows.methods.personas import PersonaTasks as PersonaTasks
    from synthmill.flows.methods.reversegen import Proposals as Proposals
    from synthmill.flows.methods.reversegen import ProposerPairs as ProposerPairs
    from synthmill.flows.methods.skillmix import DataSkills as DataSkills
    from synthmill.flows.methods.skillmix import Examples as Examples
    from synthmill.flows.methods.skillmix import SkillMixes as SkillMixes
    from synthmill.flows.methods.skillmix import TopicSkills as TopicSkills
    from synthmill.flows.methods.tapir import BalancedTasks as BalancedTasks
    from synthmill.flows.methods.tapir import ExpandTasks as ExpandTasks
    from synthmill.tasks.asking.alpagasus import AlpaGasus as AlpaGasus
    from synthmill.tasks.asking.ask import Ask as Ask
    from synthmill.tasks.asking.attributes import Attributes as Attributes
    from synthmill.tasks.asking.following_difficulty import FollowingDifficulty as FollowingDifficulty
    from synthmill.tasks.asking.instag import IntentionTags as IntentionTags
    from synthmill.tasks.asking.introspection import Introspection as Introspection
    from synthmill.tasks.cuts.max_min_pairs import MaxMinPairs as MaxMinPairs
    from synthmill.tasks.cuts.pool_pairs import PoolPairs as PoolPairs
    from synthmill.tasks.cuts.pool_pairs import PoolSigns as PoolSigns
    from synthmill.tasks.cuts.pool_pairs import Preferences as Preferences
    from synthmill.tasks.dedup.contamination import CleanInputs as CleanInputs
    from synthmill.tasks.dedup.contamination import CleanInstructions as CleanInstructions
    from synthmill.tasks.dedup.contamination import CleanPairs as CleanPairs
    from synthmill.tasks.dedup.contamination import CleanRows as CleanRows
    from synthmill.tasks.dedup.contamination import CleanTurns as CleanTurns
    from synthmill.tasks.dedup.duplicates import UniqueInstructions as UniqueInstructions
    from synthmill.tasks.dedup.duplicates import UniquePairs as UniquePairs
    from synthmill.tasks.dedup.duplicates import UniqueRows as UniqueRows
    from synthmill.tasks.dedup.duplicates import UniqueTurns as UniqueTurns
    from synthmill.tasks.generators.answers import Answers as Answers
    from synthmill.tasks.generators.answers import PoolAnswers as PoolAnswers
    from synthmill.tasks.generators.cluster_draws import ClusterDraws as ClusterDraws
    from synthmill.tasks.generators.dialogues.openings import Openings as Openings
    from synthmill.tasks.generators.dialogues.pseudo_inputs import DraftInputs as DraftInputs
    from synthmill.tasks.generators.dialogues.pseudo_inputs import PseudoInputs as PseudoInputs
    from synthmill.tasks.generators.dialogues.role_swap import RoleSwap as RoleSwap
    from synthmill.tasks.generators.dialogues.signs import DialogueSigns as DialogueSigns
    from synthmill.tasks.generators.dialogues.single_turn import Outputs as Outputs
    from synthmill.tasks.generators.dialogues.single_turn import Reasons as Reasons
    from synthmill.tasks.generators.dialogues.teacher_pairs import AnswerPools as AnswerPools
    from synthmill.tasks.generators.dialogues.teacher_pairs import TeacherPairs as TeacherPairs
    from synthmill.tasks.generators.dialogues.training_rows import TrainingRows as TrainingRows
    from synthmill.tasks.generators.error_patterns import CheckedPatterns as CheckedPatterns
    from synthmill.tasks.generators.error_patterns import ErrorPatterns as ErrorPatterns
    from synthmill.tasks.generators.error_patterns import FailureGroups as FailureGroups
    from synthmill.tasks.generators.error_patterns import PatternPrompts as PatternPrompts
    from synthmill.tasks.generators.error_patterns import PatternRows as PatternRows
    from synthmill.tasks.generators.failures import FailedPrompts as FailedPrompts
    from synthmill.tasks.generators.feedback_collection import FineRubrics as FineRubrics
    from synthmill.tasks.generators.feedback_collection import PairFeedback as PairFeedback
    from synthmill.tasks.generators.feedback_collection import RubricTaskRows as RubricTaskRows
    from synthmill.tasks.generators.feedback_collection import ScoredResponses as ScoredResponses
    from synthmill.tasks.generators.guided_series import GuidedSeries as GuidedSeries
    from synthmill.tasks.generators.gv_consistency import ConsistentRows as ConsistentRows
    from synthmill.tasks.generators.gv_consistency import SelfValidation as SelfValidation
    from synthmill.tasks.generators.instruction_trees import AlignedInstructions as AlignedInstructions
    from synthmill.tasks.generators.instruction_trees import InstructionPairs as InstructionPairs
    from synthmill.tasks.generators.instruction_trees import InstructionTrees as InstructionTrees
    from synthmill.tasks.generators.judge_rows import JsftRows as JsftRows
    from synthmill.tasks.generators.judge_rows import JudgeTrainingRows as JudgeTrainingRows
    from synthmill.tasks.generators.judge_rows import Rationales as Rationales
    from synthmill.tasks.generators.multifaceted.bench import BenchScores as BenchScores
    from synthmill.tasks.generators.multifaceted.bench import Judged as Judged
    from synthmill.tasks.generators.multifaceted.diversity import Diversity as Diversity
    from synthmill.tasks.generators.multifaceted.filtering import FilterInstructions as FilterInstructions
    from synthmill.tasks.generators.multifaceted.preference_sets import PreferenceSets as PreferenceSets
    from synthmill.tasks.generators.multifaceted.rubrics import Rubrics as Rubrics
    from synthmill.tasks.generators.multifaceted.splits import AlignedPairs as AlignedPairs
    from synthmill.tasks.generators.multifaceted.splits import BenchVariants as BenchVariants
    from synthmill.tasks.generators.multifaceted.splits import Variants as Variants
    from synthmill.tasks.generators.multifaceted.system_messages import Responses as Responses
    from synthmill.tasks.generators.multifaceted.system_messages import SystemMessages as SystemMessages
    from synthmill.tasks.generators.novel_prompts import NovelPrompts as NovelPrompts
    from synthmill.tasks.generators.option_chances import OptionChances as OptionChances
    from synthmill.tasks.generators.pair_weights import WpoWeights as WpoWeights
    from synthmill.tasks.generators.prompt_rubrics import PromptRubrics as PromptRubrics
    from synthmill.tasks.generators.rated_prompts import RatePrompts as RatePrompts
    from synthmill.tasks.generators.rated_prompts import RatingLimits as RatingLimits
    from synthmill.tasks.generators.respond import Respond as Respond
    from synthmill.tasks.generators.self_rip import FreshPrompts as FreshPrompts
    from synthmill.tasks.generators.self_rip import NewPrompts as NewPrompts
    from synthmill.tasks.generators.self_rip import ShotSets as ShotSets
    from synthmill.tasks.generators.series import PromptSeries as PromptSeries
    from synthmill.tasks.generators.series import SeriesMeasures as SeriesMeasures
    from synthmill.tasks.generators.teacher_gaps import CurriculumRounds as CurriculumRounds
    from synthmill.tasks.generators.teacher_gaps import HardPrompts as HardPrompts
    from synthmill.tasks.generators.teacher_gaps import TeacherGaps as TeacherGaps
    from synthmill.tasks.generators.uncertainty import UncertaintyRationales as UncertaintyRationales
    from synthmill.tasks.generators.written_prompts import MixedShots as MixedShots
    from synthmill.tasks.generators.written_prompts import WrittenPrompts as WrittenPrompts
    from synthmill.tasks.retrieval.bm25_ranks import Bm25Ranks as Bm25Ranks
    from synthmill.tasks.retrieval.candidates import Candidates as Candidates
    from synthmill.tasks.retrieval.comparisons import MinedNegatives as MinedNegatives
    from synthmill.tasks.retrieval.comparisons import ParetoPairs as ParetoPairs
    from synthmill.tasks.retrieval.comparisons import QueryPairs as QueryPairs
    from synthmill.tasks.retrieval.comparisons import QueryPicks as QueryPicks
    from synthmill.tasks.retrieval.comparisons import QueryPools as QueryPools
    from synthmill.tasks.retrieval.dense_ranks import DenseRanks as DenseRanks
    from synthmill.tasks.retrieval.fusion_ranks import FusionRanks as FusionRanks
    from synthmill.tasks.retrieval.http_ranks import HttpRanks as HttpRanks
    from synthmill.tasks.retrieval.indexes import Bm25Index as Bm25Index
    from synthmill.tasks.retrieval.indexes import DenseIndex as DenseIndex
    from synthmill.tasks.retrieval.indexes import GoldPlaces as GoldPlaces
    from synthmill.tasks.retrieval.indexes import PassageVectors as PassageVectors
    from synthmill.tasks.retrieval.keyword_queries import KeywordQueries as KeywordQueries
    from synthmill.tasks.retrieval.run_ranks import RunRanks as RunRanks
    from synthmill.tasks.scorers.annotators import AnnotatorScores as AnnotatorScores
    from synthmill.tasks.scorers.biggen import InstanceScores as InstanceScores
    from synthmill.tasks.scorers.calibrated import CalibratedScores as CalibratedScores
    from synthmill.tasks.scorers.cdr import CdrScores as CdrScores
    from synthmill.tasks.scorers.clue import ClueScores as ClueScores
    from synthmill.tasks.scorers.confidence import ConsistencyScores as ConsistencyScores
    from synthmill.tasks.scorers.confidence import PercentScores as PercentScores
    from synthmill.tasks.scorers.confidence import TruthScores as TruthScores
    from synthmill.tasks.scorers.direct import DirectScores as DirectScores
    from synthmill.tasks.scorers.expected import ExpectedScores as ExpectedScores
    from synthmill.tasks.scorers.fair import FairScores as FairScores
    from synthmill.tasks.scorers.flask import FlaskScores as FlaskScores
    from synthmill.tasks.scorers.helpsteer import AttributeScores as AttributeScores
    from synthmill.tasks.scorers.majority import MajorityScores as MajorityScores
    from synthmill.tasks.scorers.pairwise import PairwiseScores as PairwiseScores
    from synthmill.tasks.scorers.panel import PanelScores as PanelScores
    from synthmill.tasks.scorers.portia import PortiaScores as PortiaScores
    from synthmill.tasks.scorers.python_function import PythonScores as PythonScores
    from synthmill.tasks.scorers.r3 import R3 as R3
    from synthmill.tasks.scorers.r3 import R3Scores as R3Scores
    from synthmill.tasks.scorers.revised import RevisedScores as RevisedScores
    from synthmill.tasks.scorers.reward_models import RewardModelScores as RewardModelScores
    from synthmill.tasks.scorers.rubric_reward import RubricRewards as RubricRewards
    from synthmill.tasks.scorers.scoring_endpoint import HttpScores as HttpScores
    from synthmill.tasks.scorers.self_judge import PrincipledScores as PrincipledScores
    from synthmill.tasks.scorers.self_rewarding import AdditiveScores as AdditiveScores
    from synthmill.tasks.scorers.tournament import TournamentScores as TournamentScores
    from synthmill.tasks.scorers.verified import VerifierScores as VerifierScores
    from synthmill.tasks.scorers.weighted import WeightedScores as WeightedScores
    from synthmill.tasks.scorers.wildbench import WildBenchRewards as WildBenchRewards
    from synthmill.tasks.scorers.wildbench import WildBenchScores as WildBenchScores
    from synthmill.tasks.tables.choosing import AtLeast as AtLeast
    from synthmill.tasks.tables.choosing import AtMost as AtMost
    from synthmill.tasks.tables.choosing import Filter as Filter
    from synthmill.tasks.tables.choosing import SampleRows as SampleRows
    from synthmill.tasks.tables.choosing import Top as Top
    from synthmill.tasks.tables.confidence_rows import ConfidenceRows as ConfidenceRows
    from synthmill.tasks.tables.diverse_rows import FacilityLocation as FacilityLocation
    from synthmill.tasks.tables.diverse_rows import KCenter as KCenter
    from synthmill.tasks.tables.diverse_rows import OnePerCluster as OnePerCluster
    from synthmill.tasks.tables.joining import Concat as Concat
    from synthmill.tasks.tables.joining import Join as Join
    from synthmill.tasks.tables.length_and_band import Longest as Longest
    from synthmill.tasks.tables.length_and_band import QuantileBand as QuantileBand
    from synthmill.tasks.tables.mixture import Mixture as Mixture
    from synthmill.tasks.tables.pair_columns import LengthMargin as LengthMargin
    from synthmill.tasks.tables.pair_columns import MoreWeights as MoreWeights
    from synthmill.tasks.tables.pass_rates import PassRateBand as PassRateBand
    from synthmill.tasks.tables.pass_rates import PassRates as PassRates
    from synthmill.tasks.tables.pool_scores import PolicyGap as PolicyGap
    from synthmill.tasks.tables.quadruples import Quadruples as Quadruples
    from synthmill.tasks.tables.rejection import Rejection as Rejection
    from synthmill.tasks.tables.rl_rows import RlRows as RlRows
    from synthmill.tasks.tables.screening import ContaminatedRows as ContaminatedRows
    from synthmill.tasks.tables.screening import DuplicateRows as DuplicateRows
    from synthmill.tasks.tables.shaping import Explode as Explode
    from synthmill.tasks.tables.shaping import Map as Map
    from synthmill.tasks.tables.shaping import Sort as Sort
    from synthmill.tasks.tables.steered_answers import SteeredAnswers as SteeredAnswers
    from synthmill.tasks.tables.tag_choice import CommonTags as CommonTags
    from synthmill.tasks.tables.tag_choice import ComplexFirst as ComplexFirst
    from synthmill.tasks.vectors.stage import Vectors as Vectors


def __getattr__(name: str) -> Any:
    from synthmill.flows.python.stage_classes import stage_class

    return stage_class(name)


def __dir__() -> list[str]:
    from synthmill.flows.python.stage_classes import stage_modules

    return sorted(stage_modules())
