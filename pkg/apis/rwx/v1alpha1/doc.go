// Package v1alpha1 is the API group rwx.linbit.com: the NFSExport object, the
// single home of an export's configuration and state.
//
// +kubebuilder:object:generate=true
// +groupName=rwx.linbit.com
package v1alpha1
