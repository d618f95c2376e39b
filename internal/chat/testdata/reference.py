# Conversations as the published templates of four families write them, by Jinja: what chat_test.go holds package chat to.
#   pip install jinja2==3.1.6 && python reference.py > templates.json
import json
from jinja2.sandbox import ImmutableSandboxedEnvironment

env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
templates = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}",
    "llama-3": "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}",
    "gemma": "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}",
    "phi-3": "{% for message in messages %}{{'<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n'}}{% endfor %}{{ eos_token }}",
    # what some models of the families add: a system message where there is none, and the start token
    "chatml, preset": "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}",
    "chatml, start": "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}",
}
talks = [
    [{"role": "user", "content": "What is 2+2?"}, {"role": "assistant", "content": "4."}],
    [{"role": "user", "content": " Hi \n"}, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "See you.\n"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say <|im_end|>"}, {"role": "assistant", "content": "No"}],
]
out = []
for name, t in templates.items():
    for talk in talks:
        if name == "gemma" and talk[0]["role"] == "system":
            continue  # the published template raises an exception
        out.append({"format": name.split(",")[0], "template": t, "messages": talk, "text": env.from_string(t).render(messages=talk, bos_token="<bos>", eos_token="<eos>")})
print(json.dumps(out, indent=1))
