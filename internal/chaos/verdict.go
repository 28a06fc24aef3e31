package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// verify ends the faults, waits until all objects are settled, and compares Vault and PostgreSQL with the ledgers.
// Then it deletes everything and verifies that nothing is left. It checks the remaining promises after a broken one.
func (s *storm) verify(ctx context.Context, report *Report, before map[string]string) error {
	ended := time.Now()
	if err := s.endFaults(ctx); err != nil {
		return err
	}
	var broken []error
	add := func(err error) { broken = append(broken, err) }
	add(s.awaitSettled(ctx))
	add(s.awaitConsistency(ctx, report))
	report.SettleTime = time.Since(ended)
	logf(s.opts, "settled after %.1f s", report.SettleTime.Seconds())
	add(s.verifyLogins(ctx))
	add(s.verifyBystanders(ctx, before))
	add(s.verifyCauses(ctx, report))
	add(s.bed.Manager.Raced())
	deleted := time.Now()
	add(s.deleteAll(ctx))
	report.DeleteTime = time.Since(deleted)
	add(s.verifyNothingLeft(ctx, report, errors.Join(broken...) != nil))
	add(s.fillReport(report))
	report.Verdict = Kept
	if err := errors.Join(broken...); err != nil {
		report.Verdict = Broken
		return fmt.Errorf("seed %d: %w\n%s", s.opts.Seed, err, s.bed.Manager.LastWords(40))
	}
	return nil
}

// verifyNothingLeft waits only a minute after a broken promise.
func (s *storm) verifyNothingLeft(ctx context.Context, report *Report, brokenBefore bool) error {
	if brokenBefore {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Minute)
		defer cancel()
	}
	return s.awaitNothingLeft(ctx, report)
}

// endFaults ends all faults and creates the missing objects.
func (s *storm) endFaults(ctx context.Context) error {
	s.vault.Clear()
	s.bed.API.Clear()
	if s.bed.Cluster != nil {
		if _, err := s.bed.Cluster.AwaitActive(ctx); err != nil {
			return err
		}
	}
	for name := range s.roles() {
		if err := s.writeRole(ctx, name, 0); err != nil {
			return err
		}
	}
	if !s.bed.Manager.Running() {
		s.count(managerExits)
		if err := s.bed.Manager.Run(ctx); err != nil {
			return err
		}
	}
	return eventually(ctx, "all objects to exist", func() (string, error) {
		objects, err := s.objects(ctx)
		if err != nil {
			return "", err
		}
		for _, name := range s.history.names(bystander, mutated, expiring) {
			if objects[name] == nil {
				return name + " did not exist", s.create(ctx, name)
			}
			if !objects[name].DeletionTimestamp.IsZero() {
				return name + " is being deleted", nil
			}
			if err := s.forgetLoop(ctx, objects[name]); err != nil {
				return "", err
			}
		}
		return "", nil
	})
}

// forgetLoop forgets how many credentials the object got within an hour. The storm causes more than leasekeeper issues.
func (s *storm) forgetLoop(ctx context.Context, d *v1alpha1.DynamicSecret) error {
	if d.Status.Unplanned == nil {
		return nil
	}
	patch := client.RawPatch(types.MergePatchType, []byte(`{"status":{"unplanned":null}}`))
	return s.kube.Status().Patch(ctx, d, patch)
}

// settled reports whether the object is Ready, has no pending request and has nothing to revoke.
func settled(d *v1alpha1.DynamicSecret) bool {
	if d == nil {
		return false
	}
	onlyLease := onlyLease(d) != nil && d.Status.Attempt == nil && len(d.Status.Retiring) == 0
	requestsHandled := d.Status.ObservedGeneration == d.Generation &&
		d.Status.LastHandledRotateAt == d.Annotations[v1alpha1.RotateRequestedAtAnnotation] &&
		d.Status.LastHandledRenewAt == d.Annotations[v1alpha1.RenewRequestedAtAnnotation]
	// A finalizer that was removed must be back, and a renamed Secret moved.
	inOrder := len(d.Finalizers) > 0 && d.Status.Secret != nil && d.Status.Secret.Name == d.TargetName()
	return onlyLease && requestsHandled && inOrder &&
		meta.IsStatusConditionTrue(d.Status.Conditions, v1alpha1.ReadyCondition)
}

func (s *storm) awaitSettled(ctx context.Context) error {
	var unsettled []string
	err := eventually(ctx, "all objects to be settled", func() (string, error) {
		objects, err := s.objects(ctx)
		unsettled = unsettled[:0]
		for _, name := range s.history.names(bystander, mutated, expiring) {
			if !settled(objects[name]) {
				unsettled = append(unsettled, name)
			}
		}
		return strings.Join(unsettled, " "), err
	})
	return s.addDetails(ctx, err, unsettled)
}

// awaitConsistency waits until Vault has exactly the recorded leases, and PostgreSQL exactly the users in the Secrets.
func (s *storm) awaitConsistency(ctx context.Context, report *Report) error {
	var d difference
	const what = "Vault to have the recorded leases and PostgreSQL the published users"
	err := eventually(ctx, what, func() (text string, err error) {
		d, err = s.difference(ctx)
		return d.String(), err
	})
	report.LeakedLeases, report.LeakedUsers = len(d.extraLeases), len(d.extraUsers)
	report.LostLeases, report.LostUsers = len(d.lostLeases), len(d.lostUsers)
	return s.addDetails(ctx, err, d.objects)
}

// difference between the servers and the cluster. Extra leases and users are leaked.
type difference struct {
	extraLeases, lostLeases, extraUsers, lostUsers []string
	// objects with a lost lease or user.
	objects []string
}

func (d difference) String() string {
	var parts []string
	for what, names := range map[string][]string{
		"unrecorded leases": d.extraLeases, "recorded leases missing in Vault": d.lostLeases,
		"users in no Secret": d.extraUsers, "published users missing in PostgreSQL": d.lostUsers,
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
	leases, err3 := s.leases(ctx)
	users, err4 := s.bed.Postgres.Users(ctx, userPrefix)
	orphans, err5 := s.orphansAllowed()
	recorded, published := map[string]string{}, map[string]string{}
	for name, d := range objects {
		if onlyLease(d) != nil {
			recorded[onlyLease(d).ID] = name
		}
	}
	for name, secret := range secrets {
		published[string(secret.Data["username"])] = name
	}
	var d difference
	d.extraLeases, d.lostLeases = diff(leases, recorded, &d.objects)
	d.extraUsers, d.lostUsers = diff(users, published, &d.objects)
	if len(d.extraUsers) <= orphans {
		d.extraUsers = nil
	}
	return d, errors.Join(err1, err2, err3, err4, err5)
}

// diff compares names with the wanted names, which map to objects. It appends the objects of lost names.
func diff(actual []string, wanted map[string]string, objects *[]string) (extra, lost []string) {
	for _, x := range actual {
		if _, ok := wanted[x]; !ok {
			extra = append(extra, x)
		}
	}
	for x, name := range wanted {
		if !slices.Contains(actual, x) {
			lost = append(lost, x+" of "+name)
			*objects = append(*objects, name)
		}
	}
	return extra, lost
}

// verifyLogins logs in to PostgreSQL with each Secret. It retries, since an expiring credential may be replaced after
// the Secret was read.
func (s *storm) verifyLogins(ctx context.Context) error {
	var failed []string
	err := eventually(ctx, "every Secret to log in to PostgreSQL", func() (string, error) {
		secrets, err := s.secrets(ctx)
		failed = failed[:0]
		for _, name := range s.history.names(bystander, mutated, expiring) {
			secret := secrets[name]
			if secret == nil || s.login(ctx, secret) != nil {
				failed = append(failed, name)
			}
		}
		return strings.Join(failed, " "), err
	})
	return s.addDetails(ctx, err, failed)
}

func (s *storm) login(ctx context.Context, secret *corev1.Secret) error {
	return s.bed.Postgres.Login(ctx, string(secret.Data["username"]), string(secret.Data["password"]))
}

// verifyBystanders verifies that no Secret of a bystander was written during the storm, not even with the same
// content.
func (s *storm) verifyBystanders(ctx context.Context, before map[string]string) error {
	after, err := s.secretVersions(ctx)
	if err != nil {
		return err
	}
	var written []string
	for _, name := range s.history.names(bystander) {
		if after[name] != before[name] {
			written = append(written, name)
		}
	}
	if len(written) > 0 {
		err = fmt.Errorf("these Secrets were written without a cause: %s", strings.Join(written, " "))
	}
	return s.addDetails(ctx, err, written)
}

func (s *storm) verifyCauses(ctx context.Context, report *Report) error {
	sum := s.history.summary()
	report.Credentials, report.Causes, report.ChangedBystanders = sum.credentials, sum.causes, sum.changedBystanders
	names := slices.Sorted(maps.Keys(sum.violations))
	var text []string
	for _, name := range names {
		report.Uncaused += len(sum.violations[name])
		text = append(text, name+": "+strings.Join(sum.violations[name], "; "))
	}
	if report.ChangedBystanders > 0 {
		text = append(text, fmt.Sprintf("%d bystanders changed", report.ChangedBystanders))
	}
	if len(text) == 0 {
		return nil
	}
	err := fmt.Errorf("credentials were replaced without a cause:\n%s", strings.Join(text, "\n"))
	return s.addDetails(ctx, err, names)
}

// addDetails adds the ledgers and log lines of up to three objects to an error.
func (s *storm) addDetails(ctx context.Context, err error, names []string) error {
	if err == nil {
		return nil
	}
	names = names[:min(len(names), 3)]
	text := s.ledgers(ctx, names)
	for _, name := range names {
		text += s.managerLog(name, 30)
	}
	return fmt.Errorf("%w\n%s", err, text)
}

// managerLog returns the last log lines of the manager about an object.
func (e *environment) managerLog(name string, lines int) string {
	log, err := e.bed.Manager.Log()
	if err != nil {
		return err.Error()
	}
	var matches []string
	for _, line := range strings.Split(log, "\n") {
		if strings.Contains(line, name) {
			matches = append(matches, line)
		}
	}
	return fmt.Sprintf("manager log of %s:\n%s\n", name, strings.Join(matches[max(0, len(matches)-lines):], "\n"))
}
