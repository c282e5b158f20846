#!/usr/bin/env python3
"""Write a dump of the reference for `qwen2vl compare MODEL DUMP.safetensors`.

Needs torch, transformers (4.57) and safetensors, which this repository does not: the script is
documentation, and nothing here runs it.

    qwen2vl process MODEL --messages messages.json --output inputs.safetensors
    python tools/dump_reference.py MODEL --inputs inputs.safetensors --out dump.safetensors
    qwen2vl compare MODEL dump.safetensors

The dump holds the inputs as they are (input_ids, attention_mask, pixel_values, image_grid_thw,
pixel_values_videos, video_grid_thw, labels, ...) and every output under the name that
`qwen2vl forward` gives it (docs/forward.md). In f32, the default, it shows what the model means;
--dtype bfloat16 shows what the reference itself loses.
"""
import argparse

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--inputs", required=True, help="tensors as `qwen2vl process` writes them")
    parser.add_argument("--out", required=True)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-attentions", action="store_true", help="they have H * S * S numbers a layer")
    parser.add_argument("--kv", action="store_true", help="also the keys and values of every layer")
    arguments = parser.parse_args()

    # Only eager attention returns its weights; the others differ from it by rounding alone.
    attention = "sdpa" if arguments.no_attentions else "eager"
    dtype = getattr(torch, arguments.dtype)
    model = AutoModelForImageTextToText.from_pretrained(
        arguments.model, config=AutoConfig.from_pretrained(arguments.model), dtype=dtype,
        attn_implementation=attention).to(arguments.device).eval()
    inputs = load_file(arguments.inputs)
    given = {name: tensor.to(arguments.device, dtype if tensor.is_floating_point() else None)
             for name, tensor in inputs.items()}
    dump = {name: tensor.contiguous() for name, tensor in inputs.items()}

    # The tower runs once for the pictures and once for the videos, in this order.
    runs = [kind for kind, name in (("image", "pixel_values"), ("video", "pixel_values_videos")) if name in inputs]
    run = iter(runs)
    kind = None

    def begins(*_):
        nonlocal kind
        kind = next(run)

    def keeps(name):
        def hook(_module, _arguments, result):
            result = result[0] if isinstance(result, tuple) else result
            dump[f"vision/{kind}/{name}"] = result.float().cpu().contiguous()
        return hook

    tower = model.model.visual
    tower.register_forward_pre_hook(begins)
    tower.patch_embed.register_forward_hook(keeps("patch_embed"))
    for index, block in enumerate(tower.blocks):
        block.register_forward_hook(keeps(f"block_{index}"))
    tower.merger.register_forward_hook(keeps("merger"))

    with torch.no_grad():
        result = model(**given, output_hidden_states=True, output_attentions=not arguments.no_attentions,
                       use_cache=arguments.kv)
        if "input_ids" in given and "position_ids" not in given:
            timed = {name: given[name] for name in ["second_per_grid_ts"] if name in given}  # Qwen2.5-VL
            ids, deltas = model.model.get_rope_index(
                given["input_ids"], given.get("image_grid_thw"), given.get("video_grid_thw"),
                attention_mask=given.get("attention_mask"), **timed)
            dump |= {"position_ids": ids.cpu().contiguous(), "rope_deltas": deltas.cpu().contiguous()}
    dump["logits"] = result.logits.float().cpu().contiguous()
    if result.loss is not None:
        dump["loss"] = result.loss.float().reshape(1).cpu()
    for index, state in enumerate(result.hidden_states):
        dump[f"hidden_states/{index}"] = state.float().cpu().contiguous()
    for index, weights in enumerate(result.attentions or ()):
        dump[f"attentions/{index}"] = weights.float().cpu().contiguous()
    if arguments.kv:
        for index, layer in enumerate(result.past_key_values.layers):
            dump[f"past/{index}/keys"] = layer.keys.float().cpu().contiguous()
            dump[f"past/{index}/values"] = layer.values.float().cpu().contiguous()
    save_file(dump, arguments.out, metadata={"model": arguments.model, "dtype": arguments.dtype})
    print(f"{len(dump)} tensors in {arguments.out}")


if __name__ == "__main__":
    main()
