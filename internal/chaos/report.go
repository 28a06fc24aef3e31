package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report of a run.
type Report struct {
	Seed uint64
	// Storm is how long it lasted; 0: there was none.
	Storm time.Duration
	// Held is for how much of it no new fault came, so that a lease could be renewed.
	Held                time.Duration
	Objects, Bystanders int
	// Kills of the manager, KillsAtWork those of one that had begun with its work, and Lives the times between two kills.
	Kills, KillsAtWork, Pauses int
	Lives                      []time.Duration
	// Longest is how long a server was away at most, by its name.
	Longest map[string]time.Duration
	// Faults that were met, and Orders that were given, by what they were.
	Faults, Orders map[string]int

	// Issued and Renewals are what Vault has carried out.
	Issued, Renewals int
	// GivenUp are issues that took Vault longer than it allows a request. What they leave behind is Vault's own doing, so
	// there should be none.
	GivenUp int
	// Credentials that were seen to reach a Secret, Causes that the storm gave, and Uncaused: credentials that had none.
	Credentials, Causes, Uncaused int
	// ChangedBystanders are objects that nobody touched and that changed all the same.
	ChangedBystanders int
	// ClosestCall is the least life that was left of a bystander's lease when it was renewed; negative: none was.
	ClosestCall time.Duration

	// Leaked are there and not on record, Lost are on record and not there, when all is at rest.
	LeakedLeases, LeakedUsers, LostLeases, LostUsers int
	// Left are there when all has been deleted.
	LeftLeases, LeftUsers, LeftTokens int
	// UnusedLogins are tokens that were never used, because the answer to the login was lost.
	UnusedLogins int
	// Rest is how long after the last fault all was at rest, Gone how long after the deletion of all they were gone.
	Rest, Gone time.Duration

	// Failover says that it was played; Takeovers is what happened.
	Failover  bool
	Takeovers []Takeover
	// Scale is what was seen of many leases; there were none where it is empty.
	Scale Scale
	// Verdict on the promises; empty: the run did not come so far. The error of Run says which one is broken.
	Verdict Verdict
}

// Verdict on the promises.
type Verdict string

// The verdicts.
const (
	Kept   Verdict = "kept"
	Broken Verdict = "BROKEN"
)

// String is a table for a person.
func (r Report) String() string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name string, value any) { _, _ = fmt.Fprintf(t, "%s\t%v\n", name, value) }
	row("seed", r.Seed)
	if r.Storm > 0 && r.Verdict != "" {
		r.stormRows(row)
	}
	for _, takeover := range r.Takeovers {
		takeover.rows(row)
	}
	if r.Scale.Leases > 0 {
		r.Scale.rows(row)
	}
	if r.Verdict == "" {
		r.Verdict = "not judged: the run broke off"
	}
	row("promises", r.Verdict)
	_ = t.Flush()
	return b.String()
}

func (r Report) stormRows(row func(string, any)) {
	row("storm", fmt.Sprintf("%s, of it held back so that leases could be renewed %s", r.Storm.Round(time.Second), r.Held))
	row("objects", fmt.Sprintf("%d, of them bystanders %d", r.Objects, r.Bystanders))
	row("manager killed", fmt.Sprintf("%d, at work %d", r.Kills, r.KillsAtWork))
	if lives := slices.Sorted(slices.Values(r.Lives)); len(lives) > 0 {
		row("time between kills", fmt.Sprintf("%.1f to %.1f s, half of them up to %.1f s", lives[0].Seconds(), lives[len(lives)-1].Seconds(), lives[len(lives)/2].Seconds()))
	}
	row("manager paused and woken", r.Pauses)
	for _, server := range slices.Sorted(maps.Keys(r.Longest)) {
		row("longest outage of "+server, r.Longest[server].Round(100*time.Millisecond))
	}
	for _, counts := range []struct {
		title string
		of    map[string]int
	}{{"faults", r.Faults}, {"orders", r.Orders}} {
		total := 0
		for _, n := range counts.of {
			total += n
		}
		row(counts.title, total)
		for _, what := range slices.Sorted(maps.Keys(counts.of)) {
			row("  "+what, counts.of[what])
		}
	}
	row("credentials issued", r.Issued)
	row("issues that Vault gave up half way", r.GivenUp)
	row("renewals", r.Renewals)
	row("credentials that reached a Secret", fmt.Sprintf("%d, for %d causes", r.Credentials, r.Causes))
	row("credentials changed without a cause", r.Uncaused)
	row("bystanders changed", r.ChangedBystanders)
	if r.ClosestCall >= 0 {
		row("least life left at a bystander's renewal", r.ClosestCall.Round(time.Second))
	}
	row("time until at rest", r.Rest.Round(100*time.Millisecond))
	row("leaked leases", r.LeakedLeases)
	row("leaked users", r.LeakedUsers)
	row("lost leases, users", fmt.Sprintf("%d, %d", r.LostLeases, r.LostUsers))
	row("time until all was deleted", r.Gone.Round(100*time.Millisecond))
	row("left after that: leases, users, issuing tokens", fmt.Sprintf("%d, %d, %d", r.LeftLeases, r.LeftUsers, r.LeftTokens))
	row("logins that were never used, to expire", r.UnusedLogins)
}
