"""Word tokens for the demo's small world: one token a word or mark, numbers digit by digit.

Every token carries the space before it, so that decoding is plain concatenation and gives back the text exactly ("#### 19" stays
"#### 19"). Words outside the vocabulary become `<unk>`.
"""

from collections.abc import Iterable, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PIECE = r" ?\d+| ?[^\W\d_]+|\n| ?[^\w\s]+|\s|_"
SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>", "<user>", "<assistant>")
DIGITS = tuple(f"{space}{digit}" for space in ("", " ") for digit in range(10))

CHAT_TEMPLATE = (
    "<bos>{% for message in messages %}"
    "{% if message.role == 'assistant' %}<assistant>{{ message.content }}<eos>{% else %}<user>{{ message.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def build_word_tokenizer(texts: Iterable[str], extra_tokens: Sequence[str] = (), max_length: int = 512) -> PreTrainedTokenizerFast:
    """A tokenizer whose vocabulary is every word of `texts`, all digits, and `extra_tokens`; ids depend on the set of words only."""
    pieces = pre_tokenizers.Split(Regex(PIECE), behavior="isolated")
    words = {piece for text in texts for piece, _ in pieces.pre_tokenize_str(text)}
    vocabulary = [*SPECIAL, *DIGITS, *extra_tokens]
    vocabulary += sorted(words.difference(vocabulary))
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(vocabulary)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pieces
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
        padding_side="left",
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
