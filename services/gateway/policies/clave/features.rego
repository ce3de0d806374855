# Which features may be read for which purpose, and where the person's consent is needed.
#
# A pii or sensitive feature needs a purpose it lists; a feature of unknown classification is withheld.
# Withheld features deny the request, or are masked where the action and the caller accept that.
package clave.authz

import rego.v1

# Where the data say so, whoever enforces must name the features, an empty list included.
default features_required := false

features_required := data.clave.settings.features_required if is_boolean(data.clave.settings.features_required)

requested_features := input.resource.properties.features

requested_features := [] if {
	is_object(input.resource)
	object.get(object.get(input.resource, "properties", {}), "features", "absent") == "absent"
	features_required == false
}

known_purpose if {
	is_string(input.context.purpose)
	input.context.purpose != ""
}

withheld contains feature.name if {
	is_array(requested_features)
	some feature in requested_features
	is_object(feature)
	is_string(feature.name)
	feature.classification in {"pii", "sensitive"}
	not purpose_allows(feature)
}

withheld contains feature.name if {
	is_array(requested_features)
	some feature in requested_features
	is_object(feature)
	is_string(feature.name)
	not object.get(feature, "classification", "missing") in {"public", "internal", "pii", "sensitive"}
}

purpose_allows(feature) if {
	known_purpose
	is_array(feature.purposes)
	input.context.purpose in feature.purposes
}

features_named if {
	is_array(requested_features)
	every feature in requested_features { is_string(feature.name) }
}

purpose_ok if {
	features_named
	count(withheld) == 0
}

purpose_ok if {
	features_named
	input.context.on_withheld == "mask"
	act.maskable == true
}

# Consent is waived by its absence or by exactly false; anything else asks for it.
consent_needed contains feature.name if {
	is_array(requested_features)
	some feature in requested_features
	is_object(feature)
	is_string(feature.name)
	object.get(feature, "consent", false) != false
	not feature.name in withheld
}

consent_ok if count(consent_needed) == 0

consent_ok if {
	known_purpose
	is_array(input.context.subject_consents)
	input.context.purpose in input.context.subject_consents
}
