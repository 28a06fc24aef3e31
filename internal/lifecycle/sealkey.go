package lifecycle

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// sealKeySecret, in the manager's namespace, contains the key that proves which records leasekeeper wrote.
const (
	sealKeySecret = "leasekeeper-ledger-seal"
	sealKeyName   = "key"
)

// ErrSealRefused: the API server does not show or store the key. leasekeeper runs without it.
var ErrSealRefused = errors.New("ledger records are not sealed")

func refusedIf(refused bool, err error) error {
	if !refused {
		return err
	}
	return fmt.Errorf("%w: %w", ErrSealRefused, err)
}

// Patience is how long to wait for the API server.
type Patience struct {
	// Request bounds each request. Unanswered is after how many creations without a response the key counts as refused.
	Request    time.Duration
	Unanswered int
	// Pause is the pause between two tries, and Total bounds all of them.
	Pause, Total time.Duration
}

// SealKeyPatience waits for an API server that is briefly unavailable, because each restart of the container takes
// longer than the last. A request may take as long as a webhook with the usual time-out of 10 s.
var SealKeyPatience = Patience{Request: 12 * time.Second, Unanswered: 2, Pause: time.Second, Total: 30 * time.Second}

// errUnanswered: an admission webhook for the Secret does not respond, or the response was lost.
var errUnanswered = errors.New("the API server did not respond in time: check whether an admission webhook for " +
	"Secrets responds")

// LoadSealKey reads the key that seals ledger records, and creates it if it does not exist. The key decrypts nothing.
// Somebody who has it and can write a status can make leasekeeper accept a forged record. Without the old key
// leasekeeper cannot decide between two objects that name the same lease, and it abandons the certificates without a
// lease that it issued before: nothing else proves whose they are.
func LoadSealKey(
	ctx context.Context, reader client.Reader, writer client.Writer, namespace string, p Patience,
) (key []byte, err error) {
	unanswered := 0
	stopped := wait.PollUntilContextTimeout(ctx, p.Pause, p.Total, true, func(ctx context.Context) (bool, error) {
		key, err = tryLoadSealKey(ctx, reader, writer, namespace, p.Request)
		if errors.Is(err, errUnanswered) {
			unanswered++
			err = refusedIf(unanswered >= p.Unanswered, err)
		}
		return err == nil || errors.Is(err, ErrSealRefused), nil
	})
	if errors.Is(err, ErrSealRefused) {
		return nil, err
	}
	return key, errors.Join(stopped, err)
}

func tryLoadSealKey(
	ctx context.Context, reader client.Reader, writer client.Writer, namespace string, timeout time.Duration,
) ([]byte, error) {
	at := types.NamespacedName{Namespace: namespace, Name: sealKeySecret}
	for range 2 {
		s := &corev1.Secret{}
		err := within(ctx, timeout, func(ctx context.Context) error { return reader.Get(ctx, at, s) })
		if err == nil {
			if len(s.Data[sealKeyName]) < 16 {
				return nil, refusedIf(true, fmt.Errorf("secret %s has no usable %q: exempt it from policies that "+
					"change it, and delete it; leasekeeper creates a new one when it starts", at, sealKeyName))
			}
			return s.Data[sealKeyName], nil
		}
		if !apierrors.IsNotFound(err) {
			return nil, refusedIf(rejected(err), fmt.Errorf("reading Secret %s: %w", at, err))
		}
		key := make([]byte, 32)
		_, _ = rand.Read(key) // never fails
		s = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: at.Namespace, Name: at.Name},
			Immutable:  new(true), Data: map[string][]byte{sealKeyName: key},
		}
		// If another replica was faster, the next iteration reads its key.
		err = within(ctx, timeout, func(ctx context.Context) error { return writer.Create(ctx, s) })
		if errors.Is(err, context.DeadlineExceeded) || apierrors.IsTimeout(err) {
			return nil, fmt.Errorf("creating Secret %s: %w", at, errUnanswered)
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			refused := rejected(err) || apierrors.IsInternalError(err) // a policy, a quota, or a webhook that fails
			return nil, refusedIf(refused, fmt.Errorf("creating Secret %s: %w", at, err))
		}
	}
	return nil, fmt.Errorf("secret %s is deleted and created repeatedly: find out by whom", at)
}

// within bounds a request.
func within(ctx context.Context, timeout time.Duration, request func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return request(ctx)
}
