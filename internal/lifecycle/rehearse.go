package lifecycle

import (
	"context"
	"errors"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
	"github.com/leasekeeper/leasekeeper/internal/secret"
)

const (
	// issueDespite is after how many rejections of invented data, about a minute, a credential is issued all the same.
	// Only its fields show whether the API server accepts the Secret.
	issueDespite = 6
	// responseKnown is how long the fields of a response are assumed to be those of the next one.
	responseKnown = time.Hour
)

// rehearse asks the API server whether it would accept the Secret, so that no credential is minted for a Secret that it
// rejects. A Secret whose metadata does not change was accepted before. untested: a policy rejects invented data, which
// is not final.
func (l *Lifecycle) rehearse(ctx context.Context, o *observation) (untested bool, err error) {
	kind := secret.Type(o.d)
	if o.secret != nil && o.secret.kind() == kind && secret.InSync(o.secret, o.d) {
		return false, nil
	}
	keys, known := o.knownKeys()
	if !known && o.secret != nil {
		keys = secret.AppliedKeys(o.secret)
	}
	err = l.dryRun(ctx, o, secret.Placeholder(kind, keys))
	if known || !denied(err) {
		return false, err
	}
	if guess := l.dryRun(ctx, o, secret.Guess(kind, err.Error())); guess == nil {
		return false, nil
	}
	if o.mem.tries.Issue.Count < issueDespite {
		return false, err
	}
	return true, nil
}

// denied says that an admission policy or webhook rejected a Secret.
func denied(err error) bool { return err != nil && rejected(err) && admission.MatchString(err.Error()) }

// dryRun asks the API server whether it would accept the content.
func (l *Lifecycle) dryRun(ctx context.Context, o *observation, c secret.Content) error {
	if o.secret != nil && o.secret.kind() == secret.Type(o.d) {
		_, err := l.secrets.Patch(ctx, secret.NewChange(o.secret, o.d, c, ""), true)
		if !immutable(err) {
			return err
		}
	}
	s := secret.New(o.d, c, "")
	if o.secret != nil {
		return l.trial(ctx, s) // it will be created again
	}
	return l.secrets.Create(ctx, s, true)
}

// trial asks the API server under a free name.
func (l *Lifecycle) trial(ctx context.Context, s *corev1.Secret) error {
	s = s.DeepCopy()
	s.Name, s.GenerateName = "", "leasekeeper-"
	return l.secrets.Create(ctx, s, true)
}

// immutable says that the Secret cannot be changed, because somebody set its field immutable.
func immutable(err error) bool {
	return apierrors.IsInvalid(err) && slices.ContainsFunc(causes(err), func(c metav1.StatusCause) bool {
		return c.Type == metav1.CauseTypeForbidden && (c.Field == "data" || c.Field == "immutable")
	})
}

// checkKnownKeys says whether the next response can become the Secret, if it has the fields of the last one. Nothing is
// minted to learn that again.
func (o *observation) checkKnownKeys(now time.Time) error {
	kind, r := secret.Type(o.d), o.mem.response
	if o.secret != nil && o.secret.kind() == kind {
		return nil
	}
	if r != nil && (r.generation == o.d.Generation || now.Sub(r.at) > responseKnown) {
		return nil // this spec has its own pauses
	}
	keys, known := o.knownKeys()
	if !known {
		return nil
	}
	if err := secret.CheckKeys(kind, keys); err != nil {
		return backend.Errorf(backend.InvalidResponse, "%s: %v", locations(o.d), err)
	}
	return nil
}

// knownKeys are the keys that the last response had, or that the Secret has. False: the request is another one.
func (o *observation) knownKeys() (keys []string, known bool) {
	if r := o.mem.response; r != nil {
		for i := range o.sources.Sources {
			src := &o.sources.Sources[i]
			fields, ok := r.fields[responseKey(src)]
			if !ok {
				return nil, false
			}
			data := map[string][]byte{}
			for _, field := range append(slices.Clone(fields.all), fields.forms[secret.Type(o.d)]...) {
				data[field] = nil
			}
			part := secret.Select(src.Spec.Fields, o.d.Spec.Target.Fields, src.Spec.Name, data, nil)
			for key := range part.Data {
				keys = append(keys, key)
			}
		}
		return keys, true
	}
	if o.secret == nil || len(o.d.Status.Leases) != len(o.sources.Sources) {
		return nil, false
	}
	for i := range o.sources.Sources {
		if rec := &o.sources.Sources[i].Record; !issuedFor(o.d.Status.Leases, rec.Source, rec.RequestDigest) {
			return nil, false
		}
	}
	keys = secret.AppliedKeys(o.secret)
	return keys, len(keys) > 0
}

// responseKey identifies the request of a source.
func responseKey(src *source) string { return src.Spec.Name + "|" + src.Record.Location() }

// issuedFor says whether the lease of the source was issued for the request.
func issuedFor(leases []v1alpha1.LeaseRecord, name, digest string) bool {
	return slices.ContainsFunc(leases, func(rec v1alpha1.LeaseRecord) bool {
		return rec.Source == name && rec.RequestDigest == digest && digest != ""
	})
}

// causes of an API error.
func causes(err error) []metav1.StatusCause {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return nil
	}
	return status.Status().Details.Causes
}
