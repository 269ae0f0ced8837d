"""vLLM's shapes: its tokenizer, and its release."""

from __future__ import annotations

from pydantic import BaseModel, Field

from api.middle.schemas.base import ModelName, Schema, TakesNeutral, parameter_field
from api.middle.schemas.generate import ListedTokens, TokenizedText, TokenizeParameters
from runtime.parameters import PARAMETERS


class Release(BaseModel):
    version: str


class TokenizeRequest(TakesNeutral):
    model: ModelName | None = Field(default=None, description="Default: the oldest language model deployed.")
    prompt: TokenizedText = Field(description="Text. It gets no special tokens that it does not spell out.")
    special_tokens: bool | None = parameter_field(PARAMETERS["special_tokens"], default=None)
    return_token_strs: bool | None = Field(default=False, description="Answer with the tokens' texts, too.")

    def parameters(self) -> TokenizeParameters:
        given = {} if self.special_tokens is None else {"special_tokens": self.special_tokens}
        return TokenizeParameters(model=self.model, prompt=self.prompt, **given)


class TokenizedPrompt(BaseModel):
    count: int
    max_model_len: int = Field(description="Tokens that the model's context holds.")
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(Schema):
    model: ModelName | None = Field(default=None, description="Default: the oldest language model deployed.")
    tokens: ListedTokens

    def parameters(self) -> TokenizeParameters:
        return TokenizeParameters(model=self.model, prompt=self.tokens)


class Detokenized(BaseModel):
    prompt: str = Field(description="Their text; special tokens are spelled out.")


class TokenizerQuery(Schema):
    model: ModelName | None = Field(default=None, description="Default: the oldest language model deployed.")


class TokenizerInfo(BaseModel):
    model: str
    tokenizer_class: str = "GPT2TokenizerFast"
    model_max_length: int = Field(description="Tokens that the model's context holds.")
    eos_token: str | None = Field(description="Null where no token ends a text.")
    chat_template: str | None = Field(description="What makes a prompt of a conversation; null: nothing.")
    bos_token: str | None = Field(description="What stands before a text: GPT-2's end of text.")
