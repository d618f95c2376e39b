package tokenizer

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// hfConfig is what tokenizer_config.json and special_tokens_map.json say about special tokens.
type hfConfig map[string]json.RawMessage

func readConfig(name string, b []byte) (hfConfig, error) {
	if len(b) == 0 {
		return nil, nil
	}
	var c hfConfig
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrMalformed, name, err)
	}
	return c, nil
}

// token gives the text of a special token, which is a string or {"content": ...}.
func (c hfConfig) token(key string) string {
	var s string
	if json.Unmarshal(c[key], &s) == nil {
		return s
	}
	var o struct{ Content string }
	if json.Unmarshal(c[key], &o) == nil {
		return o.Content
	}
	return ""
}

// tokens gives a list of special tokens.
func (c hfConfig) tokens(key string) []string {
	var raw []json.RawMessage
	if json.Unmarshal(c[key], &raw) != nil {
		return nil
	}
	out := make([]string, len(raw))
	for i := range raw {
		out[i] = hfConfig{key: raw[i]}.token(key)
	}
	return out
}

// flag gives a boolean, and whether it is there.
func (c hfConfig) flag(key string) (value, ok bool) {
	var b *bool
	if json.Unmarshal(c[key], &b) != nil || b == nil {
		return false, false
	}
	return *b, true
}

// readConfigs finds the special tokens: tokenizer_config.json first, then special_tokens_map.json
// by text, then generation_config.json by id.
func (s *Spec) readConfigs(tokenizerConfig, generationConfig, specialTokensMap []byte) error {
	config, err := readConfig("tokenizer_config.json", tokenizerConfig)
	if err != nil {
		return err
	}
	names, err := readConfig("special_tokens_map.json", specialTokensMap)
	if err != nil {
		return err
	}
	generation, err := readConfig("generation_config.json", generationConfig)
	if err != nil {
		return err
	}
	index := make(map[string]int, len(s.Tokens))
	for i, tok := range s.Tokens {
		index[tok] = i
	}
	for _, sp := range s.specials() {
		if sp.config == "" {
			continue
		}
		for _, c := range []hfConfig{config, names} {
			if id, ok := index[c.token(sp.config)]; ok && !(sp.at == &s.UNK && *sp.at >= 0 && s.escaped()) {
				*sp.at = id // the unknown token of SPM is the model's own, used while encoding
				break
			}
		}
		ids := generation.ids(sp.config + "_id")
		if *sp.at < 0 && len(ids) > 0 {
			*sp.at = ids[0]
		}
		if sp.at == &s.EOS {
			s.EOG = slices.DeleteFunc(ids, func(id int) bool { return id == s.EOS })
		}
	}
	s.CleanSpaces, _ = config.flag("clean_up_tokenization_spaces")
	var length float64
	if json.Unmarshal(config["model_max_length"], &length) == nil && length >= 1 && length < 1<<40 {
		s.MaxLength = int(length) // larger values are transformers' way to say "unknown"
	}
	return s.readTemplates(config["chat_template"])
}

// Configs are the files that lie beside a tokenizer.model and say what it does not. Any may be nil.
type Configs struct {
	Tokenizer  []byte // tokenizer_config.json
	Generation []byte // generation_config.json, or config.json
	Special    []byte // special_tokens_map.json
	Added      []byte // added_tokens.json, which older folders have in place of added_tokens_decoder
}

// ApplyConfigs adds to a Spec from FromSentencePiece what the other files of its folder say: added
// tokens, the special tokens and whether they are put around a text, the chat template.
func (s *Spec) ApplyConfigs(c Configs) error {
	config, err := readConfig("tokenizer_config.json", c.Tokenizer)
	if err != nil {
		return err
	}
	if err := s.readAddedDecoder(config["added_tokens_decoder"]); err != nil {
		return err
	}
	if len(config["added_tokens_decoder"]) == 0 {
		if err := s.readAddedTokens(c.Added, config, c.Special); err != nil {
			return err
		}
	}
	if err := s.readConfigs(c.Tokenizer, c.Generation, c.Special); err != nil {
		return err
	}
	if err := s.readAddFlags(c.Tokenizer); err != nil {
		return err
	}
	return s.Check()
}

// readAddedTokens reads added_tokens.json, ids by text. Which of them are special is for the other
// files to say.
func (s *Spec) readAddedTokens(b []byte, config hfConfig, specialTokensMap []byte) error {
	if len(b) == 0 {
		return nil
	}
	var ids map[string]int
	if err := json.Unmarshal(b, &ids); err != nil {
		return fmt.Errorf("%w: added_tokens.json: %w", ErrMalformed, err)
	}
	names, err := readConfig("special_tokens_map.json", specialTokensMap)
	if err != nil {
		return err
	}
	special := map[string]bool{}
	for _, sp := range s.specials() {
		special[config.token(sp.config)], special[names.token(sp.config)] = true, true
	}
	for _, c := range []hfConfig{config, names} {
		for _, text := range c.tokens("additional_special_tokens") {
			special[text] = true
		}
	}
	byID := make(map[int]hfAdded, len(ids))
	for text, id := range ids {
		if _, dup := byID[id]; dup {
			return fmt.Errorf("%w: added_tokens.json has two tokens with id %d", ErrMalformed, id)
		}
		byID[id] = hfAdded{Content: text, Special: special[text], Normalized: !special[text]}
	}
	return s.addByID(byID)
}

// readAddedDecoder reads added tokens by id. Those that the vocabulary has keep their place; new
// ones follow it without a gap, as transformers numbers them.
func (s *Spec) readAddedDecoder(raw json.RawMessage) error {
	if len(raw) == 0 {
		return nil
	}
	var byID map[int]hfAdded
	if err := json.Unmarshal(raw, &byID); err != nil {
		return fmt.Errorf("%w: added_tokens_decoder: %w", ErrMalformed, err)
	}
	return s.addByID(byID)
}

func (s *Spec) addByID(byID map[int]hfAdded) error {
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		a := byID[id]
		a.ID = id
		typ := UserDefined
		if a.Special {
			typ = Control
		}
		switch {
		case id < 0 || id > len(s.Tokens) || a.Content == "":
			return fmt.Errorf("%w: added token %q has id %d after %d tokens", ErrMalformed, a.Content, id, len(s.Tokens))
		case id == len(s.Tokens):
			s.Tokens = append(s.Tokens, a.Content)
			s.Types = append(s.Types, typ)
			if s.Scores != nil {
				s.Scores = append(s.Scores, unusedScore)
			}
		case s.Tokens[id] != a.Content:
			return fmt.Errorf("%w: added token %q has the id of %q", ErrMalformed, a.Content, s.Tokens[id])
		case s.Types[id] == Normal:
			s.Types[id] = typ
		}
		s.Added = slices.DeleteFunc(s.Added, func(b Added) bool { return b.ID == id })
		s.Added = append(s.Added, Added(a))
	}
	slices.SortFunc(s.Added, func(a, b Added) int { return a.ID - b.ID })
	return nil
}

// ids reads a number or a list of numbers.
func (c hfConfig) ids(key string) []int {
	var one *int
	if json.Unmarshal(c[key], &one) == nil && one != nil {
		return []int{*one}
	}
	var many []int
	if json.Unmarshal(c[key], &many) == nil {
		return many
	}
	return nil
}

// readTemplates reads chat_template: a string, or a list of named ones of which "default" counts.
func (s *Spec) readTemplates(raw json.RawMessage) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	if json.Unmarshal(raw, &s.ChatTemplate) == nil {
		return nil
	}
	var many []struct{ Name, Template string }
	if err := json.Unmarshal(raw, &many); err != nil {
		return fmt.Errorf("%w: chat_template: %w", ErrMalformed, err)
	}
	for _, t := range many {
		if t.Name == "default" {
			s.ChatTemplate = t.Template
			continue
		}
		if s.NamedTemplates == nil {
			s.NamedTemplates = map[string]string{}
		}
		s.NamedTemplates[t.Name] = t.Template
	}
	return nil
}

// readPost finds which tokens the post-processor adds around a single text.
func (s *Spec) readPost(post *hfStep) error {
	for _, p := range flatten(post) {
		switch p.Type {
		case "ByteLevel": // moves offsets only
		case "TemplateProcessing":
			if err := s.readTemplate(p); err != nil {
				return err
			}
		case "RobertaProcessing", "BertProcessing":
			bos, err1 := idOfPair(p.Cls)
			eos, err2 := idOfPair(p.Sep)
			if err1 != nil || err2 != nil {
				return fmt.Errorf("%w: post-processor %s", ErrMalformed, p.Type)
			}
			s.BOS, s.EOS, s.AddBOS, s.AddEOS = bos, eos, true, true
			s.Pair = []Part{{bos, 0}, {TextA, 0}, {eos, 0}}
			if p.Type == "RobertaProcessing" { // which has one type only
				s.Pair = append(s.Pair, Part{eos, 0}, Part{TextB, 0}, Part{eos, 0})
			} else {
				s.Pair = append(s.Pair, Part{TextB, 1}, Part{eos, 1})
			}
		default:
			return fmt.Errorf("%w: post-processor %s", ErrUnsupported, p.Type)
		}
	}
	return nil
}

func idOfPair(pair []json.RawMessage) (id int, err error) {
	if len(pair) != 2 {
		return 0, ErrMalformed
	}
	return id, json.Unmarshal(pair[1], &id)
}

// readTemplate reads a template with at most one token on each side of the text.
func (s *Spec) readTemplate(p *hfStep) error {
	seen := false
	for _, piece := range p.Single {
		switch {
		case piece.Sequence != nil && !seen:
			seen = true
		case piece.Special != nil && len(p.Special[piece.Special.ID].IDs) == 1:
			id := p.Special[piece.Special.ID].IDs[0]
			at, add := &s.BOS, &s.AddBOS
			if seen {
				at, add = &s.EOS, &s.AddEOS
			}
			if *add || *at >= 0 && *at != id {
				return fmt.Errorf("%w: a post-processor that adds other tokens than one start and one end token", ErrUnsupported)
			}
			*at, *add = id, true
		default:
			return fmt.Errorf("%w: this form of TemplateProcessing", ErrUnsupported)
		}
	}
	if !seen {
		return fmt.Errorf("%w: TemplateProcessing without the text", ErrMalformed)
	}
	s.Pair = p.pairOf()
	return nil
}

// pairOf reads how two texts are put together; nil when that is in a form not read here, which makes
// a difference to those only who ask for it.
func (p *hfStep) pairOf() []Part {
	var parts []Part
	for _, piece := range p.Pair {
		switch {
		case piece.Sequence != nil && piece.Sequence.ID == "A":
			parts = append(parts, Part{TextA, piece.Sequence.Type})
		case piece.Sequence != nil && piece.Sequence.ID == "B":
			parts = append(parts, Part{TextB, piece.Sequence.Type})
		case piece.Special != nil && len(p.Special[piece.Special.ID].IDs) == 1:
			parts = append(parts, Part{p.Special[piece.Special.ID].IDs[0], piece.Special.Type})
		default:
			return nil
		}
	}
	return parts
}

// readAddFlags lets add_bos_token and add_eos_token of tokenizer_config.json overrule the
// post-processor, as the tokenizer classes of transformers do.
func (s *Spec) readAddFlags(tokenizerConfig []byte) error {
	config, err := readConfig("tokenizer_config.json", tokenizerConfig)
	if err != nil {
		return err
	}
	if add, ok := config.flag("add_bos_token"); ok {
		s.AddBOS = add && s.BOS >= 0
	}
	if add, ok := config.flag("add_eos_token"); ok {
		s.AddEOS = add && s.EOS >= 0
	}
	return nil
}
