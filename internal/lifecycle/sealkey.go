package lifecycle

import (
	"context"
	"crypto/rand"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// sealKeySecret holds, in the manager's own namespace, the key by which leasekeeper knows records that it wrote itself.
const (
	sealKeySecret = "leasekeeper-ledger-seal"
	sealKeyName   = "key"
)

// LoadSealKey reads the key that seals ledger records, and makes it where there is none yet. It opens nothing: whoever has
// it and may write statuses can have leasekeeper take their records for its own. Losing it costs nothing but that.
func LoadSealKey(ctx context.Context, reader client.Reader, writer client.Writer, namespace string) ([]byte, error) {
	at := types.NamespacedName{Namespace: namespace, Name: sealKeySecret}
	for range 2 {
		s := &corev1.Secret{}
		err := reader.Get(ctx, at, s)
		if err == nil {
			if len(s.Data[sealKeyName]) < 16 {
				return nil, fmt.Errorf("secret %s has no usable %q: delete it, a new one is made at the next start", at, sealKeyName)
			}
			return s.Data[sealKeyName], nil
		}
		if !apierrors.IsNotFound(err) {
			return nil, fmt.Errorf("reading Secret %s: %w", at, err)
		}
		key := make([]byte, 32)
		_, _ = rand.Read(key) // never fails
		s = &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: at.Namespace, Name: at.Name},
			Immutable:  new(true), Data: map[string][]byte{sealKeyName: key},
		}
		// Another replica may be faster: its key is read then.
		if err := writer.Create(ctx, s); err != nil && !apierrors.IsAlreadyExists(err) {
			return nil, fmt.Errorf("making Secret %s: %w", at, err)
		}
	}
	return nil, fmt.Errorf("secret %s comes and goes", at)
}
