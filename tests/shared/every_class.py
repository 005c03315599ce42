"""Tiny models of every class of the installed transformers, made by shrinking their configs."""

from __future__ import annotations

import copy
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

VOCABULARY = 64
_LARGEST = 3_000_000

# By the names that configs call these by: two layers, width 32, four heads of 8, tables of 64 rows.
_SIZES = {
    VOCABULARY: "vocab_size src_vocab_size tgt_vocab_size vocab_size_per_layer_input char_vocab_size "
    "t2u_vocab_size unit_hifi_gan_vocab_size max_position_embeddings n_positions n_ctx max_seq_len "
    "max_source_positions max_target_positions max_encoder_position_embeddings entity_vocab_size "
    "max_decoder_position_embeddings context_length seq_len max_2d_position_embeddings "
    "pronunciation_vocab_size shape_vocab_size num_hash_buckets sampling_rate "
    "encoder_hash_byte_group_vocab num_position_embeddings codebook_size audio_vocab_size "
    "canvas_length max_num_patches original_max_position_embeddings index_topk "
    "xpath_unit_hidden_size max_xpath_subs_unit_embeddings",
    48: "intermediate_size ffn_dim d_ff d_inner dim_ff encoder_ffn_dim decoder_ffn_dim "
    "feed_forward_size mlp_dim ffn_hidden_size expert_ffn_hidden_size moe_intermediate_size "
    "shared_intermediate_size shared_expert_intermediate_size moe_shared_expert_intermediate_size "
    "prefix_dense_intermediate_size dense_intermediate_size n_inner share_expert_dim "
    "alignment_intermediate_size intermediate_size_mlp ext_pw_out_channel "
    "depthwise_separable_out_channel nemo_conv_channels speech_encoder_intermediate_size "
    "projection_intermediate_size",
    32: "hidden_size d_model n_embd dim emb_dim embed_dim word_embed_proj_dim embedding_size "
    "input_embedding_size output_embedding_size projector_hidden_size projection_dim "
    "out_hidden_size encoder_hidden_size vision_hidden_size text_hidden_size output_dim "
    "output_proj_dims pronunciation_embed_dim shape_embed_dim d_latents lru_width true_hidden_size "
    "dim_model hidden_size_per_layer_input intra_bottleneck_size patch_embed_hidden_size "
    "bottleneck_size embed_size vision_output_dim projector_input_dim projector_output_dim "
    "image_token_embed_dim moe_hidden_size router_hidden_size image_text_hidden_size unit_embed_dim "
    "projection_hidden_size adapter_in_dim adapter_out_dim adapter_input_size entity_emb_size "
    "image_size window_size local_attention post_conv_in_channels post_conv_out_channels "
    "post_conv_mid_channels decoder_hidden_size output_channels cross_hidden_size "
    "attention_hidden_size mamba_d_ssm block_multiple_of embedding_rank projection_hidden_dim "
    "density_router_hidden_size speech_encoder_hidden_size modality_projector_dim",
    16: "moe_ffn_hidden_size q_lora_rank kv_lora_rank o_lora_rank laurel_rank sliding_window "
    "sliding_window_size attention_window_size chunk_size block_size attention_chunk_size "
    "mamba_chunk_size latent_query_num resampler_n_latents num_query_tokens resampler_num_latents "
    "rel_extent num_global_tokens audio_embed_dim index_head_dim",
    8: "head_dim d_kv dim_head qk_rope_head_dim qk_nope_head_dim v_head_dim swa_head_dim "
    "global_head_dim attention_head_size kv_channels linear_key_head_dim linear_value_head_dim "
    "mamba_head_dim rotary_dim resampler_head_dim resampler_dim_head mamba_headdim mamba_d_head "
    "mamba_d_state ssm_state_size state_size d_state num_mel_bins n_mel_bins swa_v_head_dim "
    "patch_size d_rel num_latents max_relative_position attention_window base_channels "
    "coordinate_size shape_size local_radius global_block_size mel_vocab_size feature_size "
    "linear_head_dim adapter_reduction_factor expert_head_dim",
    4: "num_attention_heads num_key_value_heads n_head n_heads num_heads encoder_attention_heads "
    "decoder_attention_heads num_self_attention_heads num_cross_attention_heads attention_heads "
    "num_experts num_local_experts n_routed_experts moe_num_experts swa_num_attention_heads "
    "linear_num_key_heads swa_num_key_value_heads linear_num_value_heads index_n_heads "
    "num_encoder_attention_heads num_decoder_attention_heads mamba_num_heads mamba_n_heads "
    "n_mamba_heads kv_n_heads resampler_n_heads resampler_heads num_sliding_attention_heads "
    "num_global_key_value_heads zero_expert_num num_kv_heads cross_num_attention_heads "
    "t2u_encoder_attention_heads t2u_decoder_attention_heads speech_encoder_attention_heads "
    "num_attention_groups o_groups moe_num_routed_experts",
    2: "num_hidden_layers num_layers n_layer n_layers encoder_layers decoder_layers num_encoder_layers "
    "num_decoder_layers depth layers num_experts_per_tok moe_topk top_k moe_k "
    "num_self_attends_per_block t2u_encoder_layers t2u_decoder_layers speech_encoder_layers "
    "num_attention_blocks resampler_depth num_codebooks top_k_experts num_selected_experts "
    "aligner_num_add_layers num_res_blocks layer_group_size full_attention_interval "
    "global_attn_every_n_layers num_global_layers moe_top_k global_attn_every_n "
    "sliding_window_pattern attn_layer_period cross_attention_frequency num_group_layers "
    "cross_attn_every_n_layers num_channels_last hybrid_layer_interval",
    1: "n_group topk_group n_groups mamba_n_groups num_shared_experts n_shared_experts num_blocks "
    "moe_num_shared_experts attn_layer_offset first_k_dense_replace moe_layer_start_index "
    "expert_layer_offset num_sparse_encoder_layers num_sparse_decoder_layers encoder_sparse_step "
    "decoder_sparse_step num_dense_layers num_random_blocks H_cycles L_cycles num_random_features "
    "num_groups insert_layer_id mamba_ngroups num_hidden_groups first_dense_layers num_frames",
    0: "num_kv_shared_layers num_mtp_layers num_nextn_predict_layers mtp_num_layers num_hash_layers",
}
_BY_NAME = {name: size for size, text in _SIZES.items() for name in text.split()}
# Tokens with a meaning; those that stand for images and the like are the last of the vocabulary.
_TOKENS = {
    **dict.fromkeys(["pad_token_id", "pad_index"], 0),
    **dict.fromkeys(["bos_token_id", "decoder_start_token_id", "cls_token_id", "bos_index"], 2),
    **dict.fromkeys(["eos_token_id", "sep_token_id", "eos_index"], 3),
    "unk_index": 1,
}
_ENDS = ("_token_id", "_token_index", "_index", "_start_id", "_end_id", "_newline_id", "_patch_id")
# What the rules cannot know.
_SPECIAL: dict[str, dict[str, Any]] = {
    "BambaConfig": {"mamba_n_heads": 8},
    "GPTNeoConfig": {"attention_types": [[["global", "local"], 1]]},
    "GraniteMoeHybridConfig": {"mamba_n_heads": 8},
    "Mamba2Config": {"num_heads": 8},
    "PerceiverConfig": {"num_latents": 6},
    "ReformerConfig": {
        "axial_pos_embds_dim": (16, 16),
        "axial_pos_shape": (8, 8),
        "attn_layers": ["local", "lsh"],
        "is_decoder": True,
    },
    "XmodConfig": {"default_language": "en_XX"},
    "ZayaConfig": {"num_experts_per_tok": 1},
}
_THREE_AXES = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
for _name in ("Qwen2VL", "Qwen2_5_VL", "Glm4v", "Glm4vMoe", "GlmOcr", "PaddleOCR"):
    _SPECIAL[f"{_name}TextConfig"] = {"rope_parameters": _THREE_AXES}
_SPECIAL_OF_CLASS: dict[str, dict[str, Any]] = {"ReformerForMaskedLM": {"is_decoder": False}}


def names(mapping: str) -> list[str]:
    """The classes of ``MODEL_FOR_<mapping>_MAPPING_NAMES``, each once."""
    found: dict[str, None] = {}
    for value in getattr(modeling_auto, f"MODEL_FOR_{mapping}_MAPPING_NAMES").values():
        found |= dict.fromkeys((value,) if isinstance(value, str) else value)
    return list(found)


def tiny(name: str) -> PreTrainedModel:
    """A model of a class, in eval mode, with random norms and biases too.

    Raises:
        MemoryError: for one that stays large.
        Exception: whatever its config or class stops with.
    """
    kind: Any = getattr(transformers, name)
    config = kind.config_class(**{**_settings(kind.config_class), **_SPECIAL_OF_CLASS.get(name, {})})
    if getattr(config, "is_encoder_decoder", False):
        config.decoder_start_token_id = getattr(config, "decoder_start_token_id", None) or 2
    for part in (config, *(getattr(config, name, None) for name in kind.config_class.sub_configs or {})):
        if hasattr(part, "use_cache"):
            part.use_cache = False  # some caches want layers that two do not have
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with torch.device("meta"):
            size = sum(p.numel() for p in kind(config).parameters())
        if size > _LARGEST:
            raise MemoryError(f"{size} parameters")
        model = kind(config)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval()  # type: ignore[no-any-return]


def _settings(kind: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    fields, default = kind.__dataclass_fields__, kind()
    special = iter(range(VOCABULARY - 1, 0, -1))
    for name in sorted(fields):
        if name in _TOKENS:
            found[name] = _TOKENS[name]
        elif name.endswith(_ENDS) and isinstance(fields[name].default, int):
            found[name] = next(special)
        elif name in _BY_NAME:
            found[name] = _BY_NAME[name]
    kinds = list(dict.fromkeys(getattr(default, "layer_types", None) or []))
    if "layer_types" in fields and kinds:  # two of its kinds, full attention first
        kinds.sort(key=lambda layer: layer != "full_attention")
        found["layer_types"] = (kinds * 2)[:2]
    rope = getattr(default, "rope_parameters", None)
    if isinstance(rope, dict) and "mrope_section" in rope:  # half a head of 8, in three parts
        found["rope_parameters"] = {
            **copy.deepcopy(rope),
            "mrope_section": [2, 1, 1],
            "partial_rotary_factor": 1.0,
        }
    for name in kind.sub_configs or {}:
        sub = getattr(default, name, None)
        if isinstance(sub, PretrainedConfig):
            found[name] = {**_settings(type(sub)), "model_type": sub.model_type}
    # Copies, since some configs change what they are given.
    return {**found, **copy.deepcopy(_SPECIAL.get(kind.__name__, {}))}
