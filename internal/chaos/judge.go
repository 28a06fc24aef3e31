package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// judge ends all faults, waits until all is at rest, and compares what is there with what is on record; then it deletes
// everything and looks for what is left. It goes on after a promise that was broken, to name the others too.
func (s *storm) judge(ctx context.Context, report *Report, before map[string]string) error {
	calm := time.Now()
	if err := s.calm(ctx); err != nil {
		return err
	}
	var broken []error
	add := func(err error) { broken = append(broken, err) }
	add(s.untilAtRest(ctx))
	add(s.untilSame(ctx, report))
	report.Rest = time.Since(calm)
	say(s.opts, "at rest after %.1f s", report.Rest.Seconds())
	add(s.loginsWork(ctx))
	add(s.bystandersUntouched(ctx, before))
	add(s.causesSuffice(ctx, report))
	add(s.bed.Manager.Raced())
	gone := time.Now()
	add(s.deleteAll(ctx))
	report.Gone = time.Since(gone)
	add(s.leftAfterAll(ctx, report, errors.Join(broken...) != nil))
	add(s.fill(report))
	report.Verdict = Kept
	if err := errors.Join(broken...); err != nil {
		report.Verdict = Broken
		return fmt.Errorf("seed %d: %w\n%s", s.opts.Seed, err, s.bed.Manager.LastWords(40))
	}
	return nil
}

// leftAfterAll is nothingLeft, with little patience where something was left before.
func (s *storm) leftAfterAll(ctx context.Context, report *Report, brokenBefore bool) error {
	if brokenBefore {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Minute)
		defer cancel()
	}
	return s.nothingLeft(ctx, report)
}

// calm ends all faults and creates what is missing.
func (s *storm) calm(ctx context.Context) error {
	s.vault.Clear()
	s.bed.API.Clear()
	for name := range s.roles() {
		if err := s.writeRole(ctx, name, 0); err != nil {
			return err
		}
	}
	if !s.bed.Manager.Running() {
		s.count(endedByItself)
		if err := s.bed.Manager.Run(ctx); err != nil {
			return err
		}
	}
	return eventually(ctx, "all objects to be there", func() (string, error) {
		objects, err := s.objects(ctx)
		if err != nil {
			return "", err
		}
		for _, name := range s.book.names(bystander, stirred, brief) {
			if objects[name] == nil {
				return name + " was not", s.make(ctx, name)
			}
			if !objects[name].DeletionTimestamp.IsZero() {
				return name + " is being deleted", nil
			}
		}
		return "", nil
	})
}

// atRest: Ready, all orders carried out, and nothing is owed to the backend.
func atRest(d *v1alpha1.DynamicSecret) bool {
	return d != nil && d.Status.Attempt == nil && d.Status.Lease != nil && len(d.Status.Retiring) == 0 &&
		d.Status.ObservedGeneration == d.Generation &&
		d.Status.LastHandledRotateAt == d.Annotations[v1alpha1.RotateRequestedAtAnnotation] &&
		d.Status.LastHandledRenewAt == d.Annotations[v1alpha1.RenewRequestedAtAnnotation] &&
		meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition)
}

func (s *storm) untilAtRest(ctx context.Context) error {
	var late []string
	err := eventually(ctx, "all objects to be at rest", func() (string, error) {
		objects, err := s.objects(ctx)
		late = late[:0]
		for _, name := range s.book.names(bystander, stirred, brief) {
			if !atRest(objects[name]) {
				late = append(late, name)
			}
		}
		return strings.Join(late, " "), err
	})
	return s.with(ctx, err, late)
}

// untilSame waits until Vault has just the leases that are on record, and PostgreSQL just the users in the Secrets.
func (s *storm) untilSame(ctx context.Context, report *Report) error {
	var d difference
	err := eventually(ctx, "Vault's leases to be those on record, and PostgreSQL's users those in the Secrets", func() (text string, err error) {
		d, err = s.difference(ctx)
		return d.String(), err
	})
	report.LeakedLeases, report.LeakedUsers = len(d.extraLeases), len(d.extraUsers)
	report.LostLeases, report.LostUsers = len(d.lostLeases), len(d.lostUsers)
	return s.with(ctx, err, d.objects)
}

// difference between what is there and what is on record.
type difference struct {
	extraLeases, lostLeases, extraUsers, lostUsers []string
	// objects are those of the leases and users that are on record and not there.
	objects []string
}

func (d difference) String() string {
	var parts []string
	for what, names := range map[string][]string{
		"leases that are not on record": d.extraLeases, "leases on record that Vault does not have": d.lostLeases,
		"users that are in no Secret": d.extraUsers, "users in a Secret that PostgreSQL does not have": d.lostUsers,
	} {
		if len(names) > 0 {
			parts = append(parts, what+": "+strings.Join(names, ", "))
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, "; ")
}

func (s *storm) difference(ctx context.Context) (difference, error) {
	objects, err1 := s.objects(ctx)
	secrets, err2 := s.secrets(ctx)
	leases, err3 := s.bed.Vault.Leases(ctx, place)
	users, err4 := s.bed.Postgres.Users(ctx, userPrefix)
	recorded, held := map[string]string{}, map[string]string{}
	for name, d := range objects {
		if d.Status.Lease != nil {
			recorded[d.Status.Lease.ID] = name
		}
	}
	for name, secret := range secrets {
		held[string(secret.Data["username"])] = name
	}
	var d difference
	d.extraLeases, d.lostLeases = compare(leases, recorded, &d.objects)
	d.extraUsers, d.lostUsers = compare(users, held, &d.objects)
	return d, errors.Join(err1, err2, err3, err4)
}

// compare what is there with what is wanted, by object.
func compare(there []string, wanted map[string]string, objects *[]string) (extra, lost []string) {
	for _, x := range there {
		if _, ok := wanted[x]; !ok {
			extra = append(extra, x)
		}
	}
	for x, name := range wanted {
		if !slices.Contains(there, x) {
			lost = append(lost, x+" of "+name)
			*objects = append(*objects, name)
		}
	}
	return extra, lost
}

// loginsWork logs in to PostgreSQL with each Secret. A brief one may be replaced between the look at it and the login.
func (s *storm) loginsWork(ctx context.Context) error {
	var bad []string
	err := eventually(ctx, "every Secret to log in to PostgreSQL", func() (string, error) {
		secrets, err := s.secrets(ctx)
		bad = bad[:0]
		for _, name := range s.book.names(bystander, stirred, brief) {
			secret := secrets[name]
			if secret == nil || s.bed.Postgres.Login(ctx, string(secret.Data["username"]), string(secret.Data["password"])) != nil {
				bad = append(bad, name)
			}
		}
		return strings.Join(bad, " "), err
	})
	return s.with(ctx, err, bad)
}

// bystandersUntouched: their Secrets are of the very version that they were of before the storm, so that nobody has written
// to them, not even the same.
func (s *storm) bystandersUntouched(ctx context.Context, before map[string]string) error {
	after, err := s.versions(ctx)
	if err != nil {
		return err
	}
	var written []string
	for _, name := range s.book.names(bystander) {
		if after[name] != before[name] {
			written = append(written, name)
		}
	}
	if len(written) > 0 {
		err = fmt.Errorf("there was no cause to write these Secrets, and they were written: %s", strings.Join(written, " "))
	}
	return s.with(ctx, err, written)
}

func (s *storm) causesSuffice(ctx context.Context, report *Report) error {
	var wrong map[string][]string
	report.Credentials, report.Causes, report.ChangedBystanders, wrong = s.book.sum()
	names := slices.Sorted(maps.Keys(wrong))
	var text []string
	for _, name := range names {
		report.Uncaused += len(wrong[name])
		text = append(text, name+": "+strings.Join(wrong[name], "; "))
	}
	if report.ChangedBystanders > 0 {
		text = append(text, fmt.Sprintf("%d bystanders changed", report.ChangedBystanders))
	}
	if len(text) == 0 {
		return nil
	}
	return s.with(ctx, fmt.Errorf("credentials were replaced without a cause:\n%s", strings.Join(text, "\n")), names)
}

// with adds to an error what is on record of the objects that it is about, and what the manager said of them.
func (s *storm) with(ctx context.Context, err error, names []string) error {
	if err == nil {
		return nil
	}
	names = names[:min(len(names), 3)]
	text := s.ledgers(ctx, names)
	for _, name := range names {
		text += s.said(name, 30)
	}
	return fmt.Errorf("%w\n%s", err, text)
}

// said is the end of what the manager has logged about an object.
func (s *site) said(name string, lines int) string {
	log, err := s.bed.Manager.Log()
	if err != nil {
		return err.Error()
	}
	var of []string
	for _, line := range strings.Split(log, "\n") {
		if strings.Contains(line, name) {
			of = append(of, line)
		}
	}
	return fmt.Sprintf("what the manager logged about %s:\n%s\n", name, strings.Join(of[max(0, len(of)-lines):], "\n"))
}
