package channels

// units are sets of indices of tensors that stay or go together. An index of a channel axis has an id; ids that
// were joined are of one unit. Ids come in batches, one for each layer that makes new channels.
type units struct {
	parent []int
	batch  []int    // of an id, the batch it was made in
	why    []string // of a root, why the unit has to stay; empty where it may go
	groups []int    // union of batches
}

// fresh makes a batch of n ids.
func (u *units) fresh(n int) []int {
	ids := make([]int, n)
	b := len(u.groups)
	u.groups = append(u.groups, b)
	for i := range ids {
		ids[i] = len(u.parent)
		u.parent = append(u.parent, ids[i])
		u.batch = append(u.batch, b)
		u.why = append(u.why, "")
	}
	return ids
}

// root is the id that stands for the unit of an id.
func (u *units) root(i int) int {
	for u.parent[i] != i {
		u.parent[i] = u.parent[u.parent[i]]
		i = u.parent[i]
	}
	return i
}

// group is the group that an id belongs to.
func (u *units) group(i int) int { return u.top(u.batch[i]) }

func (u *units) top(b int) int {
	for u.groups[b] != b {
		u.groups[b] = u.groups[u.groups[b]]
		b = u.groups[b]
	}
	return b
}

// join makes two ids of one unit. The smaller root stands for both, whatever the order of the calls.
func (u *units) join(a, b int) {
	if g, h := u.group(a), u.group(b); g != h {
		u.groups[max(g, h)] = min(g, h)
	}
	a, b = u.root(a), u.root(b)
	if a == b {
		return
	}
	a, b = min(a, b), max(a, b)
	u.parent[b] = a
	if u.why[a] == "" {
		u.why[a] = u.why[b]
	}
}

// pin makes units stay, with the reason; the first one given is kept.
func (u *units) pin(ids []int, why string) {
	for _, i := range ids {
		if r := u.root(i); u.why[r] == "" {
			u.why[r] = why
		}
	}
}

// pinned is why a unit stays.
func (u *units) pinned(i int) string { return u.why[u.root(i)] }
