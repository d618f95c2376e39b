package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/tokenizer"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
	"github.com/pare-dev/pare/runner/verify"
)

const (
	chunkTokens = 512 // what llama-perplexity takes unless told
	// together is how many chunks llama-perplexity puts in one batch of its default 2048 tokens.
	together = 4
)

func (b *bench) verify() (rows []Row) {
	for _, c := range []struct {
		name           string
		model          func(typ string) (string, error)
		original, made string
		chunks         int
		bar            bool
	}{
		{"F16 and Q4_0, 1.1 B", b.large, "f16", "q4_0", together / 2, true},
		{"Q8_0 and Q4_K_M, 1.1 B", b.large, "q8_0", "q4_k_m", together / 2, false},
		{"F16 and Q4_0, 6.8 M", b.small6M, "f16", "q4_0", 4 * together, false},
	} {
		b.log("%s", c.name)
		original, err := c.model(c.original)
		made := ""
		if err == nil {
			made, err = c.model(c.made)
		}
		var row []Row
		if err == nil {
			row, err = b.verifyPair(c.name, original, made, c.chunks, c.bar)
		}
		if err != nil {
			row = []Row{failed(c.name, err)}
		}
		rows = append(rows, row...)
	}
	return rows
}

// verifyPair lets pare's verify and llama.cpp score the same tokens with both models open. llama-perplexity
// opens them again for each of its two runs, writes the first's log-probabilities to a file and reads them
// back, which is not counted; pare's verify also measures the error after every block, which is.
func (b *bench) verifyPair(name, original, made string, chunks int, bar bool) (rows []Row, err error) {
	pool := par.NewPool(b.threads)
	defer pool.Close()
	opt := runner.Options{Pool: pool, Context: chunkTokens}
	m1, r1, err := openRunner(b.ctx, original, opt)
	if err != nil {
		return nil, err
	}
	defer closeModel(m1, r1)
	m2, r2, err := openRunner(b.ctx, made, opt)
	if err != nil {
		return nil, err
	}
	defer closeModel(m2, r2)
	ids, err := textTokens(r1, chunks*chunkTokens)
	if err != nil {
		return nil, err
	}
	var result *verify.Result
	step := func() (float64, error) {
		start := time.Now()
		c, err := verify.New(r1, r2, verify.Options{Context: chunkTokens, BOS: -1})
		if err != nil {
			return 0, err
		}
		if _, err := c.Add(b.ctx, ids, chunks); err != nil {
			return 0, err
		}
		result, err = c.Result()
		return time.Since(start).Seconds(), err
	}
	peer, theirKL, closePeer, why := b.perplexity(original, made, ids, min(chunks, together), chunks)
	defer closePeer()
	own, others, _, err := b.inTurns(0, b.rounds, step, peer)
	if err != nil {
		return nil, err
	}
	tokens := float64(len(ids))
	row := Row{Name: name, Unit: "tok/s", Why: because(why)}.compare(perSecond(own, tokens), perSecond(others, tokens), true)
	if bar {
		row = row.bar(2, 4)
	}
	kl := Row{Name: name + ": KL divergence", Unit: "nats", Pare: exactly(result.KL.Mean), Note: "the same text, so both should agree"}
	if why == nil {
		kl.Peer = exactly(*theirKL)
		if math.Abs(*theirKL/result.KL.Mean-1) > 0.15 {
			kl.Note = "**both should agree within 15 %**"
		}
	}
	return []Row{row, kl}, nil
}

func closeModel(m *ir.Model, r *runner.Runner) {
	r.Close()
	_ = m.Close() // read only
}

// perplexity is the peer's side.
func (b *bench) perplexity(original, made string, ids []int32, seqs, chunks int) (step func() (float64, error), kl *float64, end func(), why error) {
	kl = new(float64)
	c, _, why := b.startLlama()
	if why != nil {
		return nil, kl, func() {}, why
	}
	file := filepath.Join(b.cache, "tokens.i32")
	raw := make([]byte, 0, 4*len(ids))
	for _, id := range ids {
		raw = binary.LittleEndian.AppendUint32(raw, uint32(id)) //nolint:gosec // ids are positive
	}
	why = os.WriteFile(file, raw, 0o644) //nolint:gosec // numbers of a public text
	for slot, path := range []string{original, made} {
		if why == nil {
			_, why = c.number("load %d %d %d %s", slot, chunkTokens, seqs, path)
		}
	}
	if why != nil {
		c.close()
		return nil, kl, func() {}, why
	}
	return func() (float64, error) {
		x, err := c.numbers(6, "score %d %s", chunks, file)
		if err != nil {
			return 0, err
		}
		*kl = x[4]
		return x[0] + x[1], nil
	}, kl, c.close, nil
}

// textTokens are the first n tokens of the repository's test text in the vocabulary of a model.
func textTokens(r *runner.Runner, n int) ([]int32, error) {
	text, err := os.ReadFile(booksText)
	if err != nil {
		return nil, err
	}
	tok, err := r.Tokenizer()
	if err != nil {
		return nil, err
	}
	ids, err := tok.Encode(string(text), tokenizer.EncodeOptions{})
	if err != nil {
		return nil, err
	}
	if len(ids) < n {
		return nil, fmt.Errorf("the text has %d tokens, %d are needed", len(ids), n)
	}
	return ids[:n], nil
}
