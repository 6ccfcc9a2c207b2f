"""Any OpenAI-compatible endpoint as an engine for judges: chat, or completions of token ids; see `endpoint`."""
