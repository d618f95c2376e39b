// Package tokenizer turns text into token ids and back, exactly as the runtimes that will run the
// packaged model do.
//
// A Spec is everything known about a tokenizer, free of its container. Readers make one from a
// Hugging Face tokenizer.json (FromTokenizerJSON), GGUF metadata (FromGGUF), a SentencePiece
// tokenizer.model (FromSentencePiece), BERT's vocab.txt (FromVocab) or a llama2.c tokenizer file
// (FromLlama2C); Spec.GGUF and Spec.TokenizerJSON write it back. New prepares a Spec for use.
//
// There are four families:
//
//   - BPE: byte-level byte-pair encoding (gpt2, llama 3, qwen2). Text is cut into words by regular
//     expressions, each word becomes bytes spelled in a printable alphabet, and adjacent symbols
//     merge in the order of a merge list.
//   - SPM: SentencePiece BPE (llama 2, mistral, gemma). Spaces become ▁, characters that the
//     vocabulary lacks become byte tokens, and adjacent symbols merge, best score first. When the
//     Spec comes from a tokenizer.json it has a merge list, and that decides instead.
//   - WordPiece (BERT): text is made plain and cut into words, each word into the longest tokens
//     from its beginning on.
//   - Unigram (T5, XLM-RoBERTa): spaces become ▁, and words are cut into the tokens whose
//     probabilities multiply to the most.
//
// A container that asks for something this package would get wrong is refused with
// ErrUnsupported, because a tokenizer that is a little wrong makes a model a little worse and
// nobody notices.
package tokenizer
