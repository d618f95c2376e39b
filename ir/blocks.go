package ir

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
)

// DropBlocks takes blocks out of a decoder: their tensors leave the catalogue, and those behind move up
// and are renamed, in every container's spelling.
func (m *Model) DropBlocks(drop []int) error {
	d := m.Decoder
	if d == nil {
		return &fault.Error{File: m.Path, Err: errors.New("only decoders have blocks that can be taken out")}
	}
	place := make([]int, d.Layers) // of every block, -1 when it goes
	at := 0
	for b := range place {
		place[b] = -1
		if !slices.Contains(drop, b) {
			place[b] = at
			at++
		}
	}
	if at == 0 || at != d.Layers-len(drop) {
		return &fault.Error{File: m.Path, Err: fmt.Errorf("blocks %v cannot be taken out of %d", drop, d.Layers)}
	}
	old := m.tensors
	m.tensors, m.byName = nil, nil
	for _, t := range old {
		b := t.Block
		if b < 0 {
			b = blockNumber(t.Name) // of no role, such as a buffer that somebody saved
		}
		if b < 0 || b >= len(place) {
			if err := m.Add(t); err != nil {
				return err
			}
			continue
		}
		if place[b] < 0 {
			continue
		}
		c := *t
		c.Name = renumber(t.Name, b, place[b])
		c.Aliases = make([]string, len(t.Aliases))
		for i, a := range t.Aliases {
			c.Aliases[i] = renumber(a, b, place[b])
		}
		if t.Block >= 0 {
			c.Block = place[b]
		}
		if err := m.Add(&c); err != nil {
			return err
		}
	}
	now := *d
	now.Layers, now.WindowLayers = at, nil
	if d.WindowLayers != nil {
		for b, w := range d.WindowLayers {
			if place[b] >= 0 {
				now.WindowLayers = append(now.WindowLayers, w)
			}
		}
		switch {
		case !slices.Contains(now.WindowLayers, false):
			now.WindowLayers = nil // all of them
		case !slices.Contains(now.WindowLayers, true):
			now.Window, now.WindowLayers = 0, nil
		}
	}
	m.Decoder = &now
	return nil
}

// blockNumber is the first number among the parts of a name, -1 when there is none.
func blockNumber(name string) int {
	for _, part := range strings.Split(name, ".") {
		if n, err := strconv.Atoi(part); err == nil {
			return n
		}
	}
	return -1
}

// renumber replaces the number of the block in a name.
func renumber(name string, from, to int) string {
	parts := strings.Split(name, ".")
	if i := slices.Index(parts, strconv.Itoa(from)); i >= 0 {
		parts[i] = strconv.Itoa(to)
	}
	return strings.Join(parts, ".")
}
