package rollout

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// uses reports whether pods need the Secret to start, in a volume or the environment or to pull images.
func uses(spec *corev1.PodSpec, secret string) bool {
	pulls := slices.ContainsFunc(spec.ImagePullSecrets,
		func(s corev1.LocalObjectReference) bool { return s.Name == secret })
	return pulls || holds(spec, secret)
}

// holds reports whether a running pod may keep the Secret's content from its start, in a volume or the environment.
// Image pull secrets do not count: they are read at each pull, and often come from the ServiceAccount.
func holds(spec *corev1.PodSpec, secret string) bool {
	if slices.ContainsFunc(spec.Volumes, func(v corev1.Volume) bool { return mounts(v.VolumeSource, secret) }) {
		return true
	}
	containers := slices.Concat(spec.InitContainers, spec.Containers)
	for _, e := range spec.EphemeralContainers {
		containers = append(containers, corev1.Container(e.EphemeralContainerCommon))
	}
	return slices.ContainsFunc(containers, func(c corev1.Container) bool { return reads(c, secret) })
}

func mounts(v corev1.VolumeSource, secret string) bool {
	switch {
	case v.Secret != nil:
		return v.Secret.SecretName == secret
	case v.CSI != nil && v.CSI.NodePublishSecretRef != nil:
		return v.CSI.NodePublishSecretRef.Name == secret
	case v.Projected != nil:
		return slices.ContainsFunc(v.Projected.Sources, func(p corev1.VolumeProjection) bool {
			return p.Secret != nil && p.Secret.Name == secret
		})
	}
	return false
}

func reads(c corev1.Container, secret string) bool {
	return slices.ContainsFunc(c.EnvFrom, func(e corev1.EnvFromSource) bool {
		return e.SecretRef != nil && e.SecretRef.Name == secret
	}) || slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool {
		return e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && e.ValueFrom.SecretKeyRef.Name == secret
	})
}
