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

// holds reports whether a running pod may keep the Secret's content from its start; see heldSecrets.
func holds(spec *corev1.PodSpec, secret string) bool {
	return slices.Contains(heldSecrets(spec), secret)
}

// heldSecrets are the Secrets whose content a running pod may keep from its start, in a volume or the environment.
// Image pull secrets do not count: they are read at each pull, and often come from the ServiceAccount.
func heldSecrets(spec *corev1.PodSpec) (names []string) {
	for i := range spec.Volumes {
		names = append(names, mounted(&spec.Volumes[i].VolumeSource)...)
	}
	for i := range spec.InitContainers {
		names = append(names, readBy(&spec.InitContainers[i])...)
	}
	for i := range spec.Containers {
		names = append(names, readBy(&spec.Containers[i])...)
	}
	for i := range spec.EphemeralContainers {
		c := corev1.Container(spec.EphemeralContainers[i].EphemeralContainerCommon)
		names = append(names, readBy(&c)...)
	}
	return names
}

func mounted(v *corev1.VolumeSource) (names []string) {
	switch {
	case v.Secret != nil:
		return []string{v.Secret.SecretName}
	case v.CSI != nil && v.CSI.NodePublishSecretRef != nil:
		return []string{v.CSI.NodePublishSecretRef.Name}
	case v.Projected != nil:
		for _, p := range v.Projected.Sources {
			if p.Secret != nil {
				names = append(names, p.Secret.Name)
			}
		}
	}
	return names
}

func readBy(c *corev1.Container) (names []string) {
	for i := range c.EnvFrom {
		if ref := c.EnvFrom[i].SecretRef; ref != nil {
			names = append(names, ref.Name)
		}
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil && from.SecretKeyRef != nil {
			names = append(names, from.SecretKeyRef.Name)
		}
	}
	return names
}
