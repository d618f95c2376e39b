package report

import (
	"fmt"

	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/prune/channels"
)

// ChannelsText says in a line how much smaller a graph became.
func ChannelsText(r *channels.Report) string {
	part := func(after, before int64, of string) string {
		return fmt.Sprintf("%s of the %s (%s of %s)", human.Percent(float64(after)/float64(max(before, 1)), 1), of, human.Thousands(after), human.Thousands(before))
	}
	text := fmt.Sprintf("%d of %d channels stay, %s, %s, chosen by %s", r.After.Channels, r.Before.Channels,
		part(r.After.FLOPs, r.Before.FLOPs, "multiplications"), part(r.After.Parameters, r.Before.Parameters, "weights"), r.Score)
	switch {
	case r.Samples == 1:
		text += " on 1 sample"
	case r.Samples > 1:
		text += fmt.Sprintf(" on %s samples", human.Thousands(int64(r.Samples)))
	}
	return text
}

// ChannelLines are the facts about channels that went, nil for other passes: what is left of each group and why
// others stay, how well each layer was fitted, and what the outputs came to.
func (p *PassResult) ChannelLines() (lines []string) {
	r := p.Channels
	if r == nil {
		return nil
	}
	for _, g := range r.Groups {
		text := fmt.Sprintf("%s: %d of %d channels stay", g.Layers, g.Kept, g.Channels)
		switch {
		case g.Pinned == g.Channels:
			text = fmt.Sprintf("%s: all %d channels stay: %s", g.Layers, g.Channels, g.Reason)
		case g.Pinned > 0:
			text += fmt.Sprintf("; %d cannot go: %s", g.Pinned, g.Reason)
		}
		lines = append(lines, text)
	}
	for _, f := range r.Fits {
		if f.After != f.Before {
			lines = append(lines, fmt.Sprintf("%s fitted: %s dB of the original's output, %s before", f.Layer, sqnrText(f.After), sqnrText(f.Before)))
		}
	}
	for _, o := range r.Outputs {
		lines = append(lines, fmt.Sprintf("output %s: %s dB of the original's, on these samples", o.Name, sqnrText(o.SQNR)))
	}
	return lines
}

// Text says in a line what a pass did.
func (p *PassResult) Text() string {
	if p.Channels != nil {
		return p.Name + ": " + ChannelsText(p.Channels)
	}
	return fmt.Sprintf("%s changed %d tensors, left %d alone", p.Name, p.Changed, len(p.Skipped))
}
