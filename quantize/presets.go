package quantize

import (
	"fmt"
	"sort"

	"github.com/pare-dev/pare/internal/storage"
)

// Preset is a named mix of stored types: which tensor of a language model gets which type. The
// mixes are those of llama.cpp release v0.5.0 (src/llama-quant.cpp), so that a file made here has
// the same type in every tensor as one made there. Its exceptions for Falcon are not made.
type Preset struct {
	Name     string // "q4_k_m"
	Doc      string
	FileType uint32       // GGUF general.file_type
	Base     storage.Type // of every weight that no rule names

	needsImportance storage.Type // refused without an importance, save for embedding and head
	// mix names the type of a place that does not get Base, and why; "" for Base. Nil: no such place.
	mix func(s *site) (storage.Type, string)
}

// site is what a preset may look at: one tensor's place in the network.
type site struct {
	kind        kind
	index       int // of this kind, counted from the first block
	layers      int
	gqa         int // query heads that share a key/value head
	importance  bool
	seventy     bool // the 80-layer models with grouped heads, where attn_v is small
	experts     int  // that share a block's feed-forward part, 0 or 1 for none
	blockNumber int
}

// eight is for the mixtures of eight experts, whose attention is small beside them.
func (s *site) eight() bool { return s.experts == 8 }

// kind is the place of a weight as far as presets tell places apart.
type kind int

const (
	kindOther kind = iota
	kindEmbedding
	kindHead
	kindQ
	kindK
	kindV // also fused qkv: what matters in it is v
	kindO
	kindGate
	kindUp
	kindDown
)

// more says which layers get more bits in the _M mixes: the first and last eighth and every third
// between them.
func (s *site) more() bool {
	n, i := s.layers, s.index
	return i < n/8 || i >= 7*n/8 || (i-n/8)%3 == 2
}

const (
	whyEnds  = "the preset gives the first layers of this kind more bits"
	whyMore  = "the preset gives the ends and every third layer between more bits"
	whyKind  = "the preset gives tensors of this kind more bits"
	whyGQA   = "shared by several query heads: the preset gives it more bits"
	whyHead  = "the preset keeps the output matrix higher"
	whyEight = "small beside eight experts: the preset gives it more bits"
)

var presets = map[string]*Preset{}

func addPreset(name string, fileType uint32, base storage.Type, doc string, mix func(s *site) (storage.Type, string)) *Preset {
	p := &Preset{Name: name, Doc: doc, FileType: fileType, Base: base, mix: mix}
	presets[name] = p
	return p
}

func init() {
	addPreset("f32", 0, storage.F32, "32-bit floats", nil)
	addPreset("f16", 1, storage.F16, "half precision", nil)
	addPreset("bf16", 32, storage.BF16, "bfloat16", nil)
	addPreset("q8_0", 7, storage.Q8_0, "8.5 bits per weight, hardly distinguishable from the original", nil)
	addPreset("q4_1", 3, storage.Q4_1, "5 bits, older type with a minimum per block", nil)
	addPreset("q5_1", 9, storage.Q5_1, "6 bits, older type with a minimum per block", nil)
	addPreset("q6_k", 18, storage.Q6K, "6.6 bits, very close to the original", nil)
	addPreset("q5_k_s", 16, storage.Q5K, "5.5 bits everywhere", nil)
	addPreset("q3_k_s", 11, storage.Q3K, "3.4 bits everywhere: small, clearly worse", func(s *site) (storage.Type, string) {
		if s.kind == kindO && s.eight() {
			return storage.Q5K, whyEight
		}
		return "", ""
	})

	early := func(t storage.Type) func(s *site) (storage.Type, string) {
		return func(s *site) (storage.Type, string) {
			if s.kind == kindDown && s.importance && s.layer() < s.layers/8 {
				return t, whyEnds
			}
			return "", ""
		}
	}
	addPreset("q4_0", 2, storage.Q4_0, "4.5 bits, the type with the fastest ARM kernels", early(storage.Q4_1))
	addPreset("q5_0", 8, storage.Q5_0, "5.5 bits, older type", early(storage.Q5_1))

	addPreset("q2_k", 10, storage.Q2K, "2.6 bits with 3 and 4 bits where it hurts most", func(s *site) (storage.Type, string) {
		switch s.kind {
		case kindV:
			if s.gqa >= 4 {
				return storage.Q4K, whyGQA
			}
			return storage.Q3K, whyKind
		case kindDown:
			return storage.Q3K, whyKind
		case kindO:
			if s.eight() {
				return storage.Q5K, whyEight
			}
			return storage.Q3K, whyKind
		}
		return "", ""
	})
	addPreset("q2_k_s", 21, storage.Q2K, "2.6 bits; needs an importance matrix", func(s *site) (storage.Type, string) {
		switch {
		case s.kind == kindV && s.gqa >= 4:
			return storage.Q4K, whyGQA
		case s.kind == kindDown && s.layer() < s.layers/8:
			return storage.Q4K, whyEnds
		}
		return "", ""
	}).needsImportance = storage.Q2K
	addPreset("q3_k_m", 12, storage.Q3K, "3.9 bits: a mix of 3, 4 and 5", func(s *site) (storage.Type, string) {
		switch s.kind {
		case kindV:
			if s.index < 2 {
				return storage.Q5K, whyEnds
			}
			return storage.Q4K, whyKind
		case kindDown:
			if s.layer() < s.layers/16 {
				return storage.Q5K, whyEnds
			}
			return storage.Q4K, whyKind
		case kindO:
			if s.eight() {
				return storage.Q5K, whyEight
			}
			return storage.Q4K, whyKind
		}
		return "", ""
	})
	addPreset("q3_k_l", 13, storage.Q3K, "4.3 bits: a mix of 3 and 5", func(s *site) (storage.Type, string) {
		switch s.kind {
		case kindV, kindDown:
			return storage.Q5K, whyKind
		case kindO:
			if s.eight() {
				return "", ""
			}
			return storage.Q5K, whyKind
		}
		return "", ""
	})
	addPreset("q4_k_s", 14, storage.Q4K, "4.6 bits", func(s *site) (storage.Type, string) {
		switch {
		case s.kind == kindV && s.index < 4, s.kind == kindDown && s.layer() < s.layers/8:
			return storage.Q5K, whyEnds
		case s.kind == kindO && s.eight():
			return storage.Q5K, whyEight
		}
		return "", ""
	})
	addPreset("q4_k_m", 15, storage.Q4K, "4.9 bits: the usual choice for CPUs", func(s *site) (storage.Type, string) {
		switch {
		case s.kind == kindV && s.more(), s.kind == kindDown && s.moreAt(s.layer()):
			return storage.Q6K, whyMore
		case s.kind == kindO && s.eight():
			return storage.Q5K, whyEight
		}
		return "", ""
	})
	addPreset("q5_k_m", 17, storage.Q5K, "5.7 bits: close to the original", func(s *site) (storage.Type, string) {
		if s.kind == kindV && s.more() || s.kind == kindDown && s.moreAt(s.layer()) {
			return storage.Q6K, whyMore
		}
		return "", ""
	})
	nonlinear := func(s *site) (storage.Type, string) {
		switch {
		case s.kind == kindV && s.gqa >= 4:
			return storage.Q5K, whyGQA
		case s.kind == kindDown && !s.importance && s.layer() < s.layers/8:
			return storage.Q5K, whyEnds
		case s.kind == kindO && s.eight():
			return storage.Q5K, whyEight
		}
		return "", ""
	}
	addPreset("iq4_nl", 25, storage.IQ4NL, "4.7 bits, codes index a table of unequal steps", nonlinear)
	addPreset("iq4_xs", 30, storage.IQ4XS, "4.5 bits, smaller than q4_k_s at about its accuracy", nonlinear)
}

// layer is the index that decides for feed-forward weights: with experts it is the block's own
// number, otherwise the count of tensors so far.
func (s *site) layer() int {
	if s.experts > 1 {
		return s.blockNumber
	}
	return s.index
}

func (s *site) moreAt(i int) bool {
	at := *s
	at.index = i
	return at.more()
}

// LookupPreset finds a preset by its lower-case name.
func LookupPreset(name string) (*Preset, bool) {
	p, ok := presets[name]
	return p, ok
}

// Presets lists all presets by name.
func Presets() []*Preset {
	all := make([]*Preset, 0, len(presets))
	for _, p := range presets {
		all = append(all, p)
	}
	sort.Slice(all, func(a, b int) bool { return all[a].Name < all[b].Name })
	return all
}

// block reports whether the preset is a mix of block types, as opposed to plain floats.
func (p *Preset) block() bool { return storage.MustLookup(p.Base).BlockElems > 1 }

// choose is the type of one weight with rows of cols elements, and why it is not simply the base.
func (p *Preset) choose(s *site, cols int) (storage.Type, string) {
	if !p.block() {
		return p.Base, ""
	}
	typ, why := p.Base, ""
	if s.kind == kindHead { // includes the embedding when it is also the output matrix
		switch {
		case cols%storage.MustLookup(typ).BlockElems != 0:
			typ, why = storage.Q8_0, whyHead
		case typ != storage.Q8_0 && typ != storage.Q6K:
			typ, why = storage.Q6K, whyHead
		}
		return fit(typ, why, cols)
	}
	if p.mix != nil {
		if t, w := p.mix(s); t != "" {
			typ, why = t, w
		}
	}
	if s.kind == kindV && s.seventy && (typ == storage.Q3K || typ == storage.Q4K) {
		typ, why = storage.Q5K, whyGQA
	}
	if s.eight() && (s.kind == kindV || s.kind == kindK) {
		typ, why = storage.Q8_0, whyEight
	}
	return fit(typ, why, cols)
}

// fit replaces a type whose blocks do not divide a row of cols elements.
func fit(typ storage.Type, why string, cols int) (storage.Type, string) {
	to := typ.Fit(cols)
	if to == typ {
		return typ, why
	}
	return to, fmt.Sprintf("rows of %d do not divide into the blocks of %d of %s", cols, storage.MustLookup(typ).BlockElems, typ)
}
